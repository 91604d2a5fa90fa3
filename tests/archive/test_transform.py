"""What states go through on their way to the database: encryption, for one. Every test runs on both databases."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import text

from agentsleep.archive import Archive, UserArchive
from agentsleep.archive.chunks import CHUNK_BYTES
from agentsleep.errors import ArchiveError, SnapshotDamaged
from tests.archive.helpers import change, count, loaded, opened, said, slept, tensor

STATE = b"what was read can be read out of this state. " * 40
SALT, TAG = 16, 32


class ToySeal:
    """A stand-in for an authenticated cipher, for these tests alone: a keystream of HMAC-SHA256, and a tag over the
    result (encrypt, then MAC). Use a reviewed cipher, such as AES-GCM of the `cryptography` package, for anything else.
    """

    def __init__(self, key: bytes, name: str = "toy-seal") -> None:
        self._key, self.name = key, name
        self.encoded = 0

    def _stream(self, salt: bytes, size: int) -> bytes:
        blocks = (hmac.digest(self._key, salt + i.to_bytes(8, "big"), "sha256") for i in range(size // 32 + 1))
        return b"".join(blocks)[:size]

    def _mixed(self, salt: bytes, data: bytes) -> bytes:
        stream = self._stream(salt, len(data))
        return (int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(data), "big")

    def encode(self, data: bytes) -> bytes:
        self.encoded += 1
        salt = secrets.token_bytes(SALT)
        sealed = salt + self._mixed(salt, data)
        return sealed + hmac.digest(self._key, b"tag" + sealed, "sha256")

    def decode(self, data: bytes) -> bytes:
        sealed, tag = data[:-TAG], data[-TAG:]
        if not hmac.compare_digest(tag, hmac.digest(self._key, b"tag" + sealed, "sha256")):
            raise ValueError("another key, or other bytes")
        return self._mixed(sealed[:SALT], sealed[SALT:])


KEY = b"k" * 32


@contextmanager
def ada_of(where: str, transform: ToySeal | None) -> Iterator[UserArchive]:
    with Archive(where, transform=transform, retention=None) as archive:
        yield archive.user("acme", "ada")


def chunks_of(user: UserArchive) -> list[tuple[str, str | None, int, int, bytes]]:
    """digest, codec, refs, size and stored bytes of every chunk."""
    with user.reading() as (tx, scope_id):
        query = text("SELECT digest, codec, refs, size, data FROM chunks WHERE scope_id = :scope ORDER BY digest")
        return [(d, c, r, s, bytes(b)) for d, c, r, s, b in tx.execute(query, {"scope": scope_id})]


def test_a_state_comes_back_and_its_chunk_tells_nothing(where: str) -> None:
    seal = ToySeal(KEY)
    with ada_of(where, seal) as ada:
        snapshot = slept(ada, opened(ada).id, STATE)
        assert loaded(ada, snapshot.id) == STATE
        ((digest, codec, refs, size, data),) = chunks_of(ada)
        assert (codec, refs, size) == ("toy-seal", 1, len(STATE))
        assert len(data) == SALT + len(STATE) + TAG
        assert digest == hashlib.sha256(STATE).hexdigest()  # of what was to be stored, not of what was
        assert not any(STATE[i : i + 8] in data for i in range(45))
        assert ada.verify().ok
    with ada_of(where, ToySeal(KEY)) as ada:  # another day
        assert loaded(ada, snapshot.id) == STATE


def test_the_file_holds_no_plain_bytes_of_the_state(tmp_path) -> None:
    for transform, there in ((None, True), (ToySeal(KEY), False)):
        path = tmp_path / f"{there}.db"
        with ada_of(str(path), transform) as ada:
            session = opened(ada)
            ada.append(session.id, [said(1, text="the log is not sealed")])
            slept(ada, session.id, STATE)
            raw = b"".join(one.read_bytes() for one in sorted(tmp_path.glob(f"{there}.db*")) if one.is_file())
        raw += path.read_bytes()
        assert (STATE[:30] in raw) is there
        assert b"the log is not sealed" in raw


def test_another_key_is_damage(where: str) -> None:
    with ada_of(where, ToySeal(KEY)) as ada:
        snapshot = slept(ada, opened(ada).id, STATE)
    with ada_of(where, ToySeal(b"x" * 32)) as ada:
        with pytest.raises(SnapshotDamaged, match=f"chunk {hashlib.sha256(STATE).hexdigest()[:12]}"):
            ada.load_state(snapshot.id)
        assert not ada.verify().ok
        assert ada.verify(deep=False).ok  # which reads no states
    with ada_of(where, ToySeal(KEY)) as ada:  # nothing was harmed
        assert loaded(ada, snapshot.id) == STATE


@pytest.mark.parametrize("transform", [None, ToySeal(KEY, "another-seal")], ids=["none", "another"])
def test_a_missing_transformation_is_named(where: str, transform: ToySeal | None) -> None:
    with ada_of(where, ToySeal(KEY)) as ada:
        session = opened(ada)
        snapshot = slept(ada, session.id, STATE)
    with ada_of(where, transform) as ada:
        for use in (lambda: ada.load_state(snapshot.id), lambda: slept(ada, session.id, STATE), ada.verify):
            with pytest.raises(ArchiveError, match="'toy-seal'") as caught:
                use()
            assert not isinstance(caught.value, SnapshotDamaged)
            assert "transform=" in str(caught.value)
        assert ada.session(session.id).head == snapshot.id  # and nothing was stored
        assert count(ada, "snapshots") == 1
        assert ada.events(session.id)  # the log needs no key


def test_a_byte_that_was_changed_is_found(where: str) -> None:
    with ada_of(where, ToySeal(KEY)) as ada:
        snapshot = slept(ada, opened(ada).id, STATE)
        ((digest, *_rest, data),) = chunks_of(ada)
        with ada.writing() as (tx, _scope, _key):
            tx.execute(
                text("UPDATE chunks SET data = :data WHERE digest = :digest"),
                {"data": data[:100] + bytes([data[100] ^ 1]) + data[101:], "digest": digest},
            )
        with pytest.raises(SnapshotDamaged, match="does not match its digest"):
            ada.load_state(snapshot.id)


def test_a_decoder_that_lies_is_found(where: str) -> None:
    class Liar(ToySeal):
        def decode(self, data: bytes) -> bytes:
            return b"something else"

    with ada_of(where, Liar(KEY)) as ada:
        snapshot = slept(ada, opened(ada).id, STATE)
        with pytest.raises(SnapshotDamaged, match="does not match its digest"):
            ada.load_state(snapshot.id)


def test_equal_states_are_sealed_once(where: str) -> None:
    seal = ToySeal(KEY)
    with ada_of(where, seal) as ada:
        session = opened(ada)
        first = slept(ada, session.id, STATE)
        before = chunks_of(ada)
        second = slept(ada, session.id, STATE)
        third = slept(ada, session.id, [tensor(STATE, "a"), tensor(b"more", "b"), tensor(STATE, "c")])
        kept = [one for one in chunks_of(ada) if one[0] == before[0][0]]
        assert (len(chunks_of(ada)), seal.encoded) == (2, 2)
        assert kept[0][2] == 4
        assert kept[0][4] == before[0][4]  # the very bytes, not sealed anew
        assert [loaded(ada, one.id) for one in (first, second)] == [STATE, STATE]
        assert [bytes(one.data) for one in ada.load_state(third.id)] == [STATE, b"more", STATE]
        assert ada.verify().ok


def test_plain_and_sealed_chunks_in_one_archive(where: str) -> None:
    """An archive that got its key late: old states stay as they are, and are read all the same."""
    with ada_of(where, None) as ada:
        session = opened(ada)
        plain = slept(ada, session.id, STATE)
    with ada_of(where, ToySeal(KEY)) as ada:
        again = slept(ada, session.id, STATE)  # shares the plain chunk
        sealed = slept(ada, session.id, STATE[::-1])
        assert sorted(str(codec) for _digest, codec, *_rest in chunks_of(ada)) == ["None", "toy-seal"]
        assert [loaded(ada, one.id) for one in (plain, again, sealed)] == [STATE, STATE, STATE[::-1]]
        assert ada.verify().ok
    with ada_of(where, None) as ada:
        assert loaded(ada, plain.id) == STATE
        with pytest.raises(ArchiveError, match="'toy-seal'"):
            ada.load_state(sealed.id)


def test_a_damaged_chunk_is_sealed_anew_by_the_next_equal_state(where: str) -> None:
    with ada_of(where, ToySeal(KEY)) as ada:
        session = opened(ada)
        first = slept(ada, session.id, STATE)
        change(ada, "UPDATE chunks SET data = substr(data, 1, 40) WHERE scope_id = :scope")
        with pytest.raises(SnapshotDamaged):
            ada.load_state(first.id)
        second = slept(ada, session.id, STATE)
        assert [loaded(ada, one.id) for one in (first, second)] == [STATE, STATE]


def test_a_state_of_several_chunks(where: str) -> None:
    big = secrets.token_bytes(CHUNK_BYTES + 5)
    with ada_of(where, ToySeal(KEY)) as ada:
        snapshot = slept(ada, opened(ada).id, big)
        assert loaded(ada, snapshot.id) == big
        assert sorted(size for _digest, _codec, _refs, size, _data in chunks_of(ada)) == [5, CHUNK_BYTES]
        assert all(len(data) == size + SALT + TAG for *_rest, size, data in chunks_of(ada))


def test_an_encoder_that_fails_stores_nothing(where: str) -> None:
    class NoKey(ToySeal):
        def encode(self, data: bytes) -> bytes:
            raise ArchiveError("the key service does not answer")

    with ada_of(where, NoKey(KEY)) as ada:
        session = opened(ada)
        with pytest.raises(ArchiveError, match="key service"):
            slept(ada, session.id, STATE)
        assert (count(ada, "snapshots"), count(ada, "chunks"), ada.session(session.id).events) == (0, 0, 0)
