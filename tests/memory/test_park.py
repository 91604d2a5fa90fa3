"""Parking: others may write in between, and what they wrote is there afterwards, as in a session opened anew."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from agentsleep.archive import UserArchive
from agentsleep.errors import ArchiveError, SessionBusy, SessionClosed
from agentsleep.memory import Session, SleepMemory
from tests.memory.conftest import Open
from tests.memory.helpers import FACT, NEVER, Trace, assert_whole, child, events, fill, kinds


def afresh(opened: Open, session: Session) -> Trace:
    """What another process finds; the session is parked for that long."""
    session.park()
    with opened().session("t", create=False, tools=None) as other:
        return Trace.of(other)


def test_nothing_is_read_again_where_nobody_has_written(session: Session, opened: Open) -> None:
    fill(session, 3)
    session.sleep()
    session.add("user", FACT)
    window, before = session.window, Trace.of(session)
    session.park()
    session.park()  # again, it does nothing
    assert session.window is window
    for _ in range(2):
        session.park()
        with opened().session("t"):  # opened and closed by another, who said nothing
            pass
    Trace.of(session).assert_same(before)
    assert session.window is window
    session.add("tool", "noted")
    assert session.window is window
    assert_whole(session)


@pytest.mark.parametrize("what", ["add", "sleep", "pin", "turn"])
def test_what_another_has_written_is_there(memory: SleepMemory, session: Session, opened: Open, what: str) -> None:
    fill(session, 3)
    window = session.window
    session.park()
    with opened().session("t", create=False) as other:
        match what:
            case "add":
                other.add("user", "from elsewhere")
            case "sleep":
                other.sleep(deep=True)
            case "pin":
                other.pin(system="be brief")
            case "turn":
                other.generate(max_new_tokens=5)
        found = Trace.of(other)
    assert session.window is not window
    Trace.of(session).assert_near(found)
    Trace.of(session).assert_same(afresh(opened, session))
    session.add("tool", FACT)  # and it goes on
    assert_whole(session)


def test_another_process_writes(session: Session, nap: Path, archive: Path, opened: Open) -> None:
    fill(session, 2)
    assert session.window_tokens > 0
    session.park()
    process = child("add", nap, archive, "t", 60)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out.split()) == (0, ["waiting", "added"]), err
    assert [m.text for m in session.messages()][2:] == [FACT]
    Trace.of(session).assert_same(afresh(opened, session))
    assert_whole(session)


def test_forgetting_is_seen_even_where_as_much_was_said_since(session: Session, opened: Open) -> None:
    fill(session, 2)
    secret = session.add("user", "alice hands over to alice .")
    session.add("tool", "noted")
    record, window = session.archive.session(session.id), session.window
    session.park()
    other = opened()
    other.forget("t", [secret.seq])
    with other.session("t") as writer:
        writer.add("user", "bob hands over to alice .")
        found = Trace.of(writer)
    again = session.archive.session(session.id)
    assert (again.events, again.tokens, again.head) == (record.events, record.tokens, record.head)
    assert session.window is not window
    Trace.of(session).assert_near(found)
    assert "alice hands over to alice ." not in {m.text for m in session.messages()}


def test_forgetting_while_parked(session: Session, opened: Open) -> None:
    fill(session, 3)
    session.sleep()
    fill(session, 1)
    session.park()
    opened().forget("t", [1])
    assert kinds(session) == "ttst"
    Trace.of(session).assert_same(afresh(opened, session))
    assert_whole(session)


def test_a_stream_keeps_its_session(session: Session) -> None:
    with session.generate(stream=True, max_new_tokens=20, temperature=1.0, seed=7) as stream:
        next(stream)
        with pytest.raises(SessionBusy, match="is writing a turn; park it when that has ended"):
            session.park()
        next(stream)
    session.park()
    stream = session.generate(stream=True, max_new_tokens=20, temperature=1.0, seed=7)
    next(stream)
    del stream  # nobody will read it to its end
    session.park()
    assert session.messages()[-1].data["cut"] is True


def test_a_callback_cannot_park_its_own_session(session: Session) -> None:
    caught: list[Exception] = []

    def allowed(batch: int, ids: object) -> list[int]:
        try:
            session.park()
        except SessionBusy as error:
            caught.append(error)
        return list(range(8))

    session.generate(max_new_tokens=2, prefix_allowed_tokens_fn=allowed)
    assert len(caught) == 2


def test_close_and_park(memory: SleepMemory) -> None:
    session = memory.session("t")
    session.park()
    session.close()
    session.close()
    with pytest.raises(SessionClosed):
        session.park()
    with pytest.raises(SessionClosed):
        session.add("user", FACT)
    memory.session("t").close()


def test_whoever_comes_back_waits_for_the_other_writer(memory: SleepMemory, opened: Open) -> None:
    with memory.session("t", timeout=0.2) as session:
        fill(session, 1)
        session.park()
        with opened().session("t") as other:
            for use in (lambda: session.add("user", FACT), lambda: session.window_tokens, session.stats):
                began = time.monotonic()
                with pytest.raises(SessionBusy, match=r"waited 0\.2 s"):
                    use()
                assert time.monotonic() - began >= 0.2
            session.park()  # it still is
            other.add("user", "from elsewhere")
        session.add("user", FACT)
        assert [m.text for m in session.messages()][1:] == ["from elsewhere", FACT]
        assert_whole(session)


def test_it_goes_on_when_the_other_writer_is_done(memory: SleepMemory, opened: Open) -> None:
    with memory.session("t", timeout=60.0) as session:
        session.park()
        other = opened().session("t")
        done = threading.Timer(0.3, other.close)
        done.start()
        session.add("user", FACT)
        assert session.messages()[-1].text == FACT
        done.join()


def test_two_take_turns_by_parking(memory: SleepMemory, opened: Open) -> None:
    with memory.session("t") as one:
        one.park()
        with opened().session("t") as other:
            other.park()
            for i in range(3):
                for session in (one, other):
                    session.add("user", f"{i}")
                    session.park()
            assert [m.text for m in one.messages()] == ["0", "0", "1", "1", "2", "2"]
            before = Trace.of(one)
            one.park()
            Trace.of(other).assert_near(before)
            other.park()


def test_a_window_that_was_dropped_meanwhile(nap: Path, archive: Path) -> None:
    with SleepMemory(nap, archive=archive, policy=NEVER, resident=1) as memory, memory.session("t") as session:
        fill(session, 2)
        before = Trace.of(session)
        session.park()
        with memory.session("other") as other:
            fill(other, 1)
            assert memory.residents == 1
        Trace.of(session).assert_near(before)
        session.add("user", FACT)
        assert_whole(session)


def test_an_archive_that_cannot_be_read_leaves_no_old_window(
    session: Session, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Coming back, the lock is there, but what has happened meanwhile is not known."""
    fill(session, 1)
    session.park()
    with opened().session("t") as other:
        other.add("user", "from elsewhere")
    read = UserArchive.since

    def failing(self: UserArchive, *args: int, **kwargs: int) -> object:
        raise ArchiveError("no luck")

    monkeypatch.setattr(UserArchive, "since", failing)
    with pytest.raises(ArchiveError, match="no luck"):
        session.add("user", FACT)
    monkeypatch.setattr(UserArchive, "since", read)
    session.add("user", FACT)
    assert [m.text for m in session.messages()][1:] == ["from elsewhere", FACT]
    assert_whole(session)


def test_a_parked_session_can_be_forgotten_branched_and_rolled_back(memory: SleepMemory, session: Session) -> None:
    fill(session, 2)
    snapshot = session.sleep()
    assert snapshot is not None
    fill(session, 1)
    session.park()
    with memory.branch(session, len(events(session))) as branch:
        assert len(branch.messages()) == 3
    session.park()
    memory.forget(session, [0])
    assert kinds(session) == "tst"
    session.park()
    first = session.history()[0]
    with memory.rollback(session, first) as back:
        assert kinds(back) == "ts"
