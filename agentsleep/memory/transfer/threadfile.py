"""A thread as one file: a zip of JSON and safetensors, which any program can read. Nothing is ever unpacked to disk.

manifest.json                what it is, whose, the snapshots with their lineage, the SHA-256 of every other file, and
                             a digest of the manifest itself
log.jsonl                    an event a line
states/<id>.safetensors      the state of a snapshot

Digests find damage. They are no signature: who can write the file can write them too.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from agentsleep.archive import JSON
from agentsleep.archive.codec import digest, dump_json
from agentsleep.errors import AgentsleepError, ArchiveError, InputError, SnapshotDamaged

FORMAT, VERSION = "agentsleep thread", 1
MANIFEST, LOG = "manifest.json", "log.jsonl"

_NAME = re.compile(r"manifest\.json|log\.jsonl|states/[0-9a-f]{32}\.safetensors")
_MOST_JSON = {MANIFEST: 2**28, LOG: 2**30}  # bytes, unpacked: a zip may blow up to a thousand times its size
_BLOCK = 2**20

# What reading a damaged zip raises, besides its own error.
_UNREADABLE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, OverflowError, RuntimeError)


def state_name(snapshot_id: str) -> str:
    """The file of a snapshot's state."""
    return f"states/{snapshot_id}.safetensors"


class Pack:
    """A file that is being written, see :func:`writing`."""

    def __init__(self, zipped: zipfile.ZipFile) -> None:
        self._zip = zipped
        self._files: dict[str, JSON] = {}

    def add(self, name: str, parts: Iterable[bytes], *, packed: bool = False) -> None:
        """Writes one file. packed: compressed, which does nothing for states."""
        info = zipfile.ZipInfo(name)  # without the time of day: equal threads give equal files
        info.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
        sha, size = hashlib.sha256(), 0
        with self._zip.open(info, "w", force_zip64=True) as out:
            for part in parts:
                out.write(part)
                sha.update(part)
                size += len(part)
        self._files[name] = {"sha256": sha.hexdigest(), "bytes": size}

    def finish(self, manifest: Mapping[str, JSON]) -> None:
        """Writes the manifest; nothing follows."""
        whole = {"format": FORMAT, "version": VERSION, **manifest, "files": self._files}
        whole["digest"] = _digest_of(whole)
        self.add(MANIFEST, [json.dumps(whole, ensure_ascii=False, allow_nan=False, indent=1).encode()], packed=True)


@contextmanager
def writing(target: Path, *, force: bool) -> Iterator[Pack]:
    """A pack that becomes ``target`` when the context ends, whole or not at all; only its owner may read it.

    Args:
        force: whether a file that is there is replaced.

    Raises:
        InputError: there is such a file, or no such folder.  ArchiveError: the disk does not take it.
    """
    taken = InputError(f"{target} is there already; choose another name, or overwrite it with force (--force)")
    if target.is_dir() or not target.parent.is_dir():
        what = "a folder" if target.is_dir() else f"in {target.parent}, which is no folder"
        raise InputError(f"{target} is {what}; name a file in a folder that exists")
    if target.exists() and not force:
        raise taken
    part: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name[:100]}.", delete=False) as file:
            part = Path(file.name)
            with zipfile.ZipFile(file, "w") as zipped:
                yield Pack(zipped)
            file.flush()
            os.fsync(file.fileno())
        if target.exists() and not force:  # it came while this one was written
            raise taken
        os.replace(part, target)
    except OSError as error:
        raise ArchiveError(f"{target} cannot be written ({error}); nothing is there; choose another place") from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


class ThreadFile:
    """A file opened for reading; its names, sizes and manifest are verified, the rest as it is read.

    Raises:
        InputError: it is no such file, of a later format, damaged, or holds what does not belong there.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        if not source.is_file():
            raise InputError(f"there is no file {source}; name one that 'snapshots export' wrote")
        try:
            self._zip = zipfile.ZipFile(source)
        except _UNREADABLE as error:
            raise InputError(
                f"{source} is no zip, or was cut short ({error}); name a file that 'snapshots export' wrote"
            ) from error
        try:
            self._check_names()
            self.manifest = self._read_manifest()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> ThreadFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the file."""
        self._zip.close()

    @property
    def digest(self) -> str:
        """Of the manifest, and so of all files."""
        return str(self.manifest["digest"])

    @property
    def states(self) -> set[str]:
        """The files of states."""
        return set(self.manifest["files"]) - {LOG}

    def read(self, name: str) -> bytes:
        """A file, verified.

        Raises:
            SnapshotDamaged: it is a state, and not what was exported.  InputError: it is another file, and is not.
        """
        data = b"".join(self._blocks(name))
        self._check(name, hashlib.sha256(data).hexdigest(), len(data))
        return data

    def lines(self) -> Generator[tuple[str, object], None, None]:
        """The log, verified before the first line is given: each with a name for messages. To be closed."""
        sha, size = hashlib.sha256(), 0
        for block in self._blocks(LOG):
            sha.update(block)
            size += len(block)
        self._check(LOG, sha.hexdigest(), size)
        with self._named(LOG), self._zip.open(LOG) as file:
            for number, line in enumerate(file, 1):
                yield f"{self.source}: {LOG}, line {number}", _parse(line)

    def damaged(self, name: str, what: object) -> AgentsleepError:
        """The error for a file in it."""
        kind = SnapshotDamaged if name.startswith("states/") else InputError
        return kind(f"{self.source}: {name} {what}; the file is damaged, nothing was imported; export the thread again")

    def _check_names(self) -> None:
        infos = self._zip.infolist()
        times = Counter(info.filename for info in infos)
        for name, count in times.items():
            if count > 1 or not _NAME.fullmatch(name):
                what = "twice" if count > 1 else "which does not belong into an exported thread"
                raise InputError(f"{self.source} holds {name!r:.80}, {what}; nothing was imported")
        for missing in {MANIFEST, LOG} - set(times):
            raise InputError(f"{self.source} holds no {missing}; it is no exported thread, or damaged")
        for info in infos:
            most = _MOST_JSON.get(info.filename)
            if info.flag_bits & 1:
                raise self.damaged(info.filename, "is encrypted")
            if most is not None and info.file_size > most:
                raise self.damaged(info.filename, f"unpacks to {info.file_size} bytes, at most {most} are read")
            if most is None and (info.compress_type, info.compress_size) != (zipfile.ZIP_STORED, info.file_size):
                raise self.damaged(info.filename, "is compressed; states lie in the zip as they are")
        if sum(info.compress_size for info in infos) > self.source.stat().st_size:
            raise InputError(f"{self.source} unpacks to more than it holds; it is no exported thread")

    def _read_manifest(self) -> dict[str, Any]:
        data = b"".join(self._blocks(MANIFEST))
        with self._named(MANIFEST):
            manifest = _parse(data)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise InputError(f"{self.source}: {MANIFEST} is not that of an exported thread")
        if manifest.get("version") != VERSION:
            raise InputError(
                f"{self.source} has version {manifest.get('version')!r:.20} of the format, this library reads "
                f"{VERSION}; use the library that wrote it, or a newer one"
            )
        with self._named(MANIFEST):
            right = _digest_of({key: value for key, value in manifest.items() if key != "digest"})
        if manifest.get("digest") != right:
            raise self.damaged(MANIFEST, "does not match its digest")
        files = manifest.get("files")
        if not isinstance(files, dict) or {*files, MANIFEST} != set(self._zip.namelist()):
            raise self.damaged(MANIFEST, "does not list the files that are there")
        return manifest

    def _blocks(self, name: str) -> Iterator[bytes]:
        with self._named(name), self._zip.open(name) as file:
            while block := file.read(_BLOCK):
                yield block

    def _check(self, name: str, sha: str, size: int) -> None:
        if self.manifest["files"].get(name) != {"sha256": sha, "bytes": size}:
            raise self.damaged(name, "does not match its SHA-256")

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        try:
            yield
        except AgentsleepError:
            raise
        except _UNREADABLE as error:
            raise self.damaged(name, f"cannot be read ({error})") from error


def _digest_of(manifest: Mapping[str, JSON]) -> str:
    return digest(dump_json(manifest).encode())


def _parse(data: bytes) -> object:
    return json.loads(data.decode("utf-8"), parse_constant=_no_number)


def _no_number(name: str) -> object:
    raise ValueError(f"{name} is no JSON")
