"""The archive's value objects: plain, frozen, free of SQL and of tensors."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias, get_args

from agentsleep.errors import InputError

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
"""What `json` can store. NaN and infinities are refused: the SQL standard has no place for them."""

EventKind: TypeAlias = Literal["tokens", "sleep", "deep_sleep"]

Status: TypeAlias = Literal["stored", "pruned"]
"""Of a snapshot: whether its state lies in the archive, or was taken away by retention and can be computed again."""

MAX_NAME = 255
"""Longest tenant, user, thread, trigger, mode or tag, in characters."""

MAX_TOKEN = 2**32 - 1
"""Largest token id: the log keeps four bytes a token."""


def check_name(what: str, value: str) -> str:
    """Returns `value`, a short opaque text without NUL, or raises `InputError` naming `what`."""
    if not isinstance(value, str):
        raise InputError(f"{what} must be a str, got {value!r}; convert it first")
    if not value:
        raise InputError(f"{what} is empty; give a text of 1 to {MAX_NAME} characters")
    if len(value) > MAX_NAME:
        raise InputError(f"{what} has {len(value)} characters, at most {MAX_NAME} are kept; shorten or hash it")
    return check_text(what, value, nul=False)


def check_text(what: str, value: str, *, nul: bool = True) -> str:
    """Returns `value` if it can be stored as UTF-8 (and without NUL if `nul` is False), or raises `InputError`."""
    if not isinstance(value, str):
        raise InputError(f"{what} must be a str, got {type(value).__name__}; decode it first")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} holds the lone surrogate {value[error.start]!a} at character {error.start}, which is no text; "
            "decode the bytes with errors='replace'"
        ) from None
    if not nul and "\0" in value:
        raise InputError(f"{what} holds a NUL character at {value.index(chr(0))}; remove it")
    return value


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Whose memory it is: three separate, opaque ids, compared as they are; a slash in one crosses nothing.

    Raises:
        InputError: an id is empty, longer than 255 characters or no text.
    """

    tenant: str
    user: str
    thread: str

    def __post_init__(self) -> None:
        for name in ("tenant", "user", "thread"):
            check_name(f"scope.{name}", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class TensorBytes:
    """A tensor of a state as the archive sees it.

    name: such as "layers.1.recurrent".  dtype: as safetensors names it, such as "F32".  shape: of the tensor.
    data: its bytes in row-major order, little-endian.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes | bytearray | memoryview = field(repr=False)

    def view(self) -> memoryview:
        """Its bytes, not copied."""
        view = memoryview(self.data)
        return view if view.format == "B" and view.ndim == 1 else view.cast("B")


@dataclass(frozen=True, kw_only=True)
class NewEvent:
    """An event not yet in the log; the archive gives it its seq and its position.

    Raises:
        InputError: an unknown kind, a token id outside 0 … 2**32 - 1, a mark that carries tokens, a text that is none.
    """

    kind: EventKind
    role: str | None = None
    """Who speaks in a "tokens" event: "user", "assistant", "tool", …"""
    token_ids: tuple[int, ...] = ()
    """The tokens as they were really read or generated; never rendered again."""
    text: str | None = None
    data: Mapping[str, JSON] = field(default_factory=dict)
    """Whatever else belongs to the event: tool calls, or the passes and reason of a sleep."""
    created: datetime | None = None
    """When it was first written, where it is written again; None: now."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(EventKind):
            raise InputError(f"unknown event kind {self.kind!r}; use one of {', '.join(get_args(EventKind))}")
        try:
            ids = tuple(operator.index(token) for token in self.token_ids)
        except TypeError:
            raise InputError(f"token ids must be ints, got {self.token_ids!r:.80}; convert them first") from None
        bad = next((token for token in ids if not 0 <= token <= MAX_TOKEN), None)
        if bad is not None:
            raise InputError(f"token id {bad} is outside 0 … {MAX_TOKEN}; check the tokenizer")
        if ids and self.kind != "tokens":
            raise InputError(f"a {self.kind!r} mark carries {len(ids)} tokens; put a 'tokens' event before it")
        object.__setattr__(self, "token_ids", ids)
        if self.role is not None:
            check_name("role", self.role)
        if self.text is not None:
            check_text("text", self.text)


@dataclass(frozen=True, kw_only=True)
class Event:
    """An entry of a session's log."""

    seq: int
    """0-based place in the log; a fork goes on counting where its parent was."""
    kind: EventKind
    role: str | None
    token_ids: tuple[int, ...]
    position: int
    """Tokens in the log before this event."""
    text: str | None
    data: Mapping[str, JSON]
    created: datetime = field(compare=False)
    """When it was written, UTC. Says nothing about what was read, so equality ignores it."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A stored state with its lineage. Immutable but for its tag, and its status when its state is pruned."""

    id: str
    tenant: str
    user: str
    session_id: str
    """The session that committed it; forks inherit it under the same id."""
    parent: str | None
    fingerprint: str
    """Of the model (weights, architecture, tokenizer) that alone can use the state."""
    passes: int
    rounds: int
    span: tuple[int, int]
    """Event seqs added since the parent: start inclusive, stop exclusive; the sleep's own mark included."""
    tokens: int
    """Tokens in the log up to the span's stop."""
    trigger: str
    mode: str
    environment: Mapping[str, JSON]
    metrics: Mapping[str, JSON]
    probe: Mapping[str, JSON]
    """What the state answered to a fixed text when it was stored; empty where nobody asked."""
    status: Status
    state_digest: str
    """SHA-256 over the names, dtypes, shapes and chunk digests of its tensors, in hex."""
    state_bytes: int
    """Bytes of its tensors."""
    created: datetime
    """UTC."""
    tag: str | None


@dataclass(frozen=True, kw_only=True)
class SessionRecord:
    """A session as it stands."""

    id: str
    scope: Scope
    fingerprint: str
    settings: Mapping[str, JSON]
    head: str | None
    """Id of the newest snapshot; None before the first sleep."""
    forked_from: str | None
    """Id of the snapshot it was forked from; None for a session that began empty."""
    events: int
    """Length of its log, what a fork inherited included; also the seq of the next event."""
    tokens: int
    """Tokens in its log; also the position of the next event."""
    created: datetime
    """UTC."""
