"""Bad archives: full, damaged, no database at all. Nothing that was acknowledged is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import event as sql_event
from sqlalchemy import update

from agentsleep.archive import UserArchive
from agentsleep.archive.schema import EventRow
from agentsleep.errors import ArchiveDamaged, ArchiveFull
from agentsleep.memory import SleepMemory
from tests.memory.conftest import Open
from tests.memory.helpers import FACT, Trace, assert_whole, fill, kinds, rig, says


@contextmanager
def full_disk(memory: SleepMemory, spare: int = 0) -> Iterator[None]:
    """No page more than the database has now, but ``spare`` ones."""
    engine = memory.archive._db.engine
    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar() + spare

    def cap(connection: object, _entry: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")  # type: ignore[attr-defined]

    engine.dispose()
    sql_event.listen(engine, "connect", cap)
    try:
        yield
    finally:
        sql_event.remove(engine, "connect", cap)
        engine.dispose()


def until_full(act: Callable[[], object]) -> int:
    """How often it went well."""
    done = [0]

    def on_and_on() -> None:
        while done[0] < 5000:
            act()
            done[0] += 1

    with pytest.raises(ArchiveFull, match=r"no space left for the archive"):
        on_and_on()
    return done[0]


@pytest.mark.parametrize("spare", [0, 1, 3])
def test_a_disk_that_fills_up_while_messages_come(memory: SleepMemory, spare: int) -> None:
    with memory.session() as session:
        fill(session, 3)
        with full_disk(memory, spare):
            heard = until_full(lambda: session.add("user", "z" * 30))
            acknowledged = 3 + heard
            assert [m.text for m in session.messages()[3:acknowledged]] == ["z" * 30] * heard
            # At most the one message more: it was stored, and the sleep that it made necessary was not.
            assert len(session.messages()) - acknowledged in (0, 1)
        before = len(session.messages())
        session.add("user", FACT)
        assert len(session.messages()) == before + 1
        assert_whole(session)
    with memory.session() as session:
        assert_whole(session)


def test_a_sleep_on_a_full_disk_leaves_the_old_state(memory: SleepMemory) -> None:
    with memory.session() as session:
        fill(session, 3)
        session.sleep()
        fill(session, 4)
        before = Trace.of(session)
        with full_disk(memory):
            until_full(lambda: session.sleep() and fill(session, 1))
            assert session.head is not None
            assert session.window_tokens > 0
            asked = session.ask("who comes 1 after bob ?", remember=False, max_new_tokens=5)
            assert asked.snapshot == session.head.id
        assert kinds(session).startswith("ttts" + "tttt")
        assert before.head in {s.id for s in session.history()}
        assert session.sleep() is not None
        assert_whole(session)


def test_a_turn_on_a_full_disk(memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first part and a sleep are stored, its end is not: it gets one when there is space again."""
    with memory.session() as session:
        fill(session, 7)
        append = UserArchive.append

        def no_space(*anything: object) -> None:
            raise ArchiveFull("no space left for the archive")

        rig(monkeypatch, says(memory, "bob alice " * 5))
        monkeypatch.setattr(UserArchive, "append", no_space)
        with pytest.raises(ArchiveFull) as caught:
            session.generate()
        assert "do not add it again" not in str(caught.value)
        with pytest.raises(ArchiveFull):
            session.add("user", FACT)
        assert kinds(session) == "t" * 7 + "ts"
        monkeypatch.setattr(UserArchive, "append", append)
        assert session.window.ids == [memory.chat.end]
        assert session.messages()[-1].text == "bob alice bob alice bob"
        assert_whole(session)


def test_a_damaged_event_is_refused(memory: SleepMemory) -> None:
    with memory.session() as session:
        fill(session, 3)
    with memory.archive._db.writing() as tx:
        tx.execute(update(EventRow).where(EventRow.seq == 1).values(text="bob hands over to mallory ."))
    with pytest.raises(ArchiveDamaged, match=r"event 1 .* fails its checksum"):
        memory.session()
    memory.session("another").close()


@pytest.mark.parametrize(
    "bytes_", [b"this is no database, but long enough to look like one" * 50, b"SQLite format 3\0" + b"x" * 5000]
)
def test_what_is_no_database_is_refused(nap: Path, archive: Path, bytes_: bytes) -> None:
    archive.write_bytes(bytes_)
    with pytest.raises(ArchiveDamaged, match=r"cannot be read"):
        SleepMemory(nap, archive=archive)
    assert archive.read_bytes() == bytes_


def test_a_file_cut_short_says_so(opened: Open, archive: Path) -> None:
    with opened() as memory:
        for i in range(12):
            with memory.session(f"{i}") as session:
                fill(session, 10)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])

    def use() -> None:
        with opened() as memory:
            for i in range(12):
                with memory.session(f"{i}") as session:
                    assert_whole(session)

    with pytest.raises(ArchiveDamaged):
        use()


def test_a_message_that_was_stored_before_its_sleep_failed_says_so(
    memory: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who adds it again says it twice."""
    with memory.session() as session:
        fill(session, 7)

        def no_space(*anything: object, **more: object) -> None:
            raise ArchiveFull("no space left")

        with monkeypatch.context() as patch:
            patch.setattr(UserArchive, "commit_snapshot", no_space)
            with pytest.raises(
                ArchiveFull, match=r"^no space left \(the message itself is on disk, as event 7: do not"
            ):
                session.add("user", "z" * 20)
            assert session.messages()[-1].text == "z" * 20
        with monkeypatch.context() as patch:
            patch.setattr(UserArchive, "append", no_space)
            with pytest.raises(ArchiveFull, match=r"^no space left$"):
                session.add("user", FACT)
        fill(session, 4)
        with monkeypatch.context() as patch:
            patch.setattr(UserArchive, "commit_snapshot", no_space)
            with pytest.raises(ArchiveFull, match=r"on disk, as event \d+"):
                session.ask("who comes 1 after bob ?", max_new_tokens=40)
        assert session.messages()[-1].text == "who comes 1 after bob ?"
        assert_whole(session)
