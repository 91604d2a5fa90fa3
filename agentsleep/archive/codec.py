"""Bytes, JSON and digests: how values lie in the tables."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

from agentsleep.archive.types import JSON
from agentsleep.errors import InputError


def dump_json(value: object) -> str:
    """The one JSON text of a value: sorted keys, no blanks, no NaN; equal values give equal texts."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


def normal_json(what: str, value: Mapping[str, JSON]) -> dict[str, Any]:
    """`value` as it will be read back (tuples become lists).

    Raises:
        InputError: it is no mapping, or holds something that JSON cannot (NaN, infinities, objects, lone surrogates).
    """
    if not isinstance(value, Mapping):
        raise InputError(f"{what} must be a mapping, got {type(value).__name__}; pass a dict")
    if not all(isinstance(key, str) for key in value):
        raise InputError(f"{what} has a key that is not a str: {list(value)!r:.80}; JSON keys are strings")
    try:
        text = dump_json(dict(value))
        text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{what} cannot be stored as JSON ({error}); give plain numbers, strings and lists") from error
    normal: dict[str, Any] = json.loads(text)
    return normal


def pack_tokens(token_ids: tuple[int, ...]) -> bytes:
    """[T] ids as 4 * T bytes, little-endian unsigned: a quarter of JSON's size, and the same on every machine."""
    return struct.pack(f"<{len(token_ids)}I", *token_ids)


def unpack_tokens(packed: bytes) -> tuple[int, ...]:
    """The inverse of `pack_tokens`; `struct.error` if the length is no multiple of four."""
    return struct.unpack(f"<{len(packed) // 4}I", packed)


def digest(state: bytes | memoryview) -> str:
    """SHA-256 in hex: a chunk's name."""
    return hashlib.sha256(state).hexdigest()


def text_hash(key: bytes, role: str | None, text: str) -> bytes:
    """The first 16 bytes of an HMAC-SHA256, by which equal messages of one scope are found.

    Keyed, since a bare hash of a short text is undone by trying texts.
    """
    return hmac.new(key, f"{role or ''}\0{text}".encode(), hashlib.sha256).digest()[:16]


def checksum(
    *, seq: int, kind: str, role: str | None, position: int, packed: bytes, text: str | None, data: object
) -> int:
    """CRC-32 of all that an event says.

    SQLite has no page checksums: without this a flipped bit would silently become another token.
    """
    return zlib.crc32(packed, zlib.crc32(dump_json([seq, kind, role, position, text, data]).encode("utf-8")))
