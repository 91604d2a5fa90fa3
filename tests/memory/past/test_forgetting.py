"""Forgetting: the texts are gone from the file, the states that saw them too, and what is left never heard of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentsleep.archive import Archive
from agentsleep.errors import InputError, SessionBusy, SessionNotFound, SleepFailed
from agentsleep.memory import Session, SleepMemory
from agentsleep.memory.past import scratch as scratch_module
from agentsleep.policy import SleepPolicy
from tests.memory.conftest import Open
from tests.memory.helpers import FACT, SYSTEM, assert_whole, events, fill, kinds, rig, same, says

SECRET = "zelda hands over to xena ."
POLICIES = [SleepPolicy(), SleepPolicy(trigger=None), SleepPolicy(trigger=("messages", 3), keep=("messages", 1))]


def story(session: Session, secret: str | None) -> None:
    """A session with everything in it; the secret comes in its third window."""
    session.pin(system=SYSTEM)
    fill(session, 9)
    session.sleep()
    fill(session, 3)
    session.ask("who comes 1 after bob ?", max_new_tokens=60, min_new_tokens=55, temperature=1.0, seed=3)
    if secret is not None:
        session.add("user", secret)
    fill(session, 4)
    session.sleep(deep=True, passes=1, rounds=2)
    fill(session, 5)
    session.sleep(passes=3)
    session.add("user", FACT)


def place_of(session: Session, text: str) -> int:
    return next(event.seq for event in session.messages() if event.text == text)


def assert_like(one: Session, other: Session) -> None:
    """Equal in all but times and ids, bit for bit."""
    assert [(e.seq, e.kind, e.role, e.token_ids, e.position, e.text) for e in events(one)] == [
        (e.seq, e.kind, e.role, e.token_ids, e.position, e.text) for e in events(other)
    ]
    assert [dict(e.data) for e in events(one)] == [dict(e.data) for e in events(other)]
    assert same(one.state, other.state)
    assert [s.state_digest for s in one.history()] == [s.state_digest for s in other.history()]
    assert one.window.ids == other.window.ids
    assert_whole(one)


@contextmanager
def bytes_of(path: Path) -> Iterator[bytes]:
    """All that lies in the files of a database that is still open."""
    yield b"".join(one.read_bytes() for one in sorted(path.parent.glob(f"{path.name}*")) if one.is_file())


@pytest.mark.parametrize("policy", POLICIES, ids=["fraction", "overflow", "messages"])
def test_a_forgotten_message_was_never_read(opened: Open, policy: SleepPolicy, archive: Path) -> None:
    memory = opened(policy)
    never = opened(policy, ":memory:")
    with memory.session("t") as session, never.session("t") as other:
        story(session, SECRET)
        # What the model says depends on what it has read: the other one is to hear the same answer.
        story(other, None)
        before = len(session.history())
        report = memory.forget(session, [place_of(session, SECRET)])
        assert_like(session, other)
        assert (report.messages, report.rebuilt, report.threads, report.repeats) == (1, ("t",), (), ())
        assert 0 < report.snapshots < before
        assert report.state_bytes > 0
        assert report.out_of_reach == ()
        fill(session, 2)
        assert_whole(session)


def test_the_file_holds_nothing_of_it(opened: Open, archive: Path) -> None:
    memory = opened(SleepPolicy(trigger=("messages", 4)))
    with memory.session("t") as session:
        fill(session, 3)
        session.add("user", "xylophone gribble")
        fill(session, 20)
        ids = b"".join(token.to_bytes(4, "little") for token in session.messages()[3].token_ids[1:-1])
        states = [tensor.view().tobytes() for s in session.history() for tensor in session.archive.load_state(s.id)]
        with bytes_of(archive) as raw:
            assert b"gribble" in raw
            assert ids in raw
            assert all(state in raw for state in states if len(state) < 2000)
        memory.forget(session, [3])
        with bytes_of(archive) as raw:
            assert b"gribble" not in raw.lower()
            assert b"xylophone" not in raw.lower()
            assert ids not in raw
            assert not any(state in raw for state in states if len(state) > 100)
        assert session.archive.search("gribble") == []
        assert len(session.messages()) == 23


def test_forks_forget_too(opened: Open) -> None:
    memory, never = (
        opened(SleepPolicy(trigger=("messages", 5))),
        opened(SleepPolicy(trigger=("messages", 5)), ":memory:"),
    )
    sessions = []
    for each, secret in ((memory, True), (never, False)):
        session = each.session("t")
        fill(session, 4)
        if secret:
            session.add("user", SECRET)
        fill(session, 4)
        session.sleep()
        head = session.head
        assert head is not None
        branch = each.fork(head, "branch")
        fill(branch, 3)
        branch.sleep()
        twig = each.fork(branch.history()[-1], "twig")
        twig.add("user", "who comes 1 after bob ?")
        early = each.fork(session.history()[0], "early") if secret else None
        fill(session, 2)
        for one in (branch, twig, *([early] if early else [])):
            one.close()
        sessions.append(session)
    session, other = sessions
    early_before = memory.archive.user("default", "default").find("early")
    report = memory.forget(session, [place_of(session, SECRET)])
    assert {*report.rebuilt} >= {"t", "branch", "twig"}
    assert_like(session, other)
    for name in ("branch", "twig"):
        with memory.session(name, tools=()) as one, never.session(name) as two:
            assert_like(one, two)
    assert early_before is not None
    with memory.session("early") as one:
        assert SECRET not in [event.text for event in one.messages()]
        assert_whole(one)
    session.close()
    other.close()


def test_a_fork_from_before_is_left_alone(memory: SleepMemory) -> None:
    with memory.session("t") as session:
        fill(session, 9)
        session.sleep()
        early = memory.fork(session.history()[-1], "early")
        fill(early, 2)
        before = [(one.id, one.state_digest) for one in early.history()], events(early)
        early.close()
        session.add("user", SECRET)
        session.sleep()
        with memory.session("early") as held:  # open: it has nothing to do with it
            assert memory.forget(session, [place_of(session, SECRET)]).rebuilt == ("t",)
            assert ([(one.id, one.state_digest) for one in held.history()], events(held)) == before
        assert_whole(session)


def test_repeats_are_listed_and_go_with_cascade(memory: SleepMemory) -> None:
    with memory.session("t") as session, memory.session("other") as other:
        session.add("user", "an older one : " + SECRET)
        session.add("user", SECRET)
        fill(session, 3)
        session.add("tool", f"as you said : {SECRET.upper().replace(' ', '  ')} right ?")
        session.add("user", "xena likes tea .")
        other.add("user", SECRET)
        other.add("user", FACT)
    report = memory.forget("t", [1], phrases=["likes  TEA"])
    assert [(one.thread, (one.text or "")[:4]) for one in report.repeats] == [
        ("t", "as y"),
        ("t", "xena"),
        ("other", "zeld"),
    ]
    with memory.session("t") as session:
        assert len(session.messages()) == 6
        assert_whole(session)
    report = memory.forget("t", [0], phrases=[SECRET], cascade=True)
    assert report.messages == 3, report
    assert {*report.rebuilt} == {"t", "other"}
    with memory.session("t") as session, memory.session("other") as other:
        assert [event.text for event in session.messages()][-1] == "xena likes tea ."
        assert len(session.messages()) == 4
        assert [event.text for event in other.messages()] == [FACT]


def test_a_turn_goes_whole(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = opened(SleepPolicy(trigger=None))
    with memory.session("t") as session:
        fill(session, 7)
        rig(monkeypatch, says(memory, "bob alice " * 12))
        session.generate(max_new_tokens=60)
        assert "ts" in kinds(session)
        parts = [e.seq for e in session.messages() if e.role == "assistant"]
        assert len(parts) == 2
        memory.forget(session, [parts[0]])
        assert not [e for e in session.messages() if e.role == "assistant"]
        assert_whole(session)


def test_a_system_message_is_forgotten(memory: SleepMemory) -> None:
    with memory.session("t", system=SYSTEM) as session:
        fill(session, 10)
        pinned = next(event.seq for event in events(session) if "pins" in event.data)
        memory.forget(session, span=(pinned, pinned + 1))
        assert session.stats().pinned_tokens == 0
        assert SYSTEM not in str([dict(event.data) for event in events(session)])
        assert_whole(session)


def test_a_thread_and_a_user_are_forgotten(opened: Open, archive: Path) -> None:
    memory = opened(SleepPolicy(trigger=("messages", 4)))
    with memory.session("t", user="ada") as session, memory.session("t", user="bob") as bobs:
        fill(session, 9)
        fork = memory.fork(session.history()[0], "fork")
        fork.add("user", FACT)
        fork.close()
        bobs.add("user", "bob keeps this")
    report = memory.forget("t", user="ada")
    assert (report.threads, report.rebuilt) == (("t",), ("fork",))
    assert [one.scope.thread for one in memory.sessions(user="ada")] == ["fork"]
    with memory.session("fork", user="ada") as fork:
        assert [event.text for event in fork.messages()] == [FACT]
        assert_whole(fork)
    report = memory.forget(None, user="ada")
    assert report.threads == ("fork",)
    assert memory.sessions(user="ada") == []
    assert memory.archive.users() == [("default", "bob")]
    with bytes_of(archive) as raw:
        assert b"hands over" not in raw
        assert b"bob keeps this" in raw
    with memory.session("t", user="ada") as session:  # comes back as a stranger
        assert session.messages() == []
        session.add("user", FACT)
    with memory.session("t", user="bob") as bobs:
        assert_whole(bobs)


def test_what_cannot_be_forgotten_changes_nothing(memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    with memory.session("t") as session:
        fill(session, 9)
        before = events(session), [one.id for one in session.history()]
        mark = next(event.seq for event in events(session) if event.kind == "sleep")
        for messages, error in (([99], "nothing"), ([mark], "a sleep"), ([], "no message")):
            with pytest.raises(InputError, match=error):
                memory.forget(session, messages)
        with pytest.raises(InputError, match="belong to a thread"):
            memory.forget(None, [1])
        with pytest.raises(SessionNotFound):
            memory.forget("nobody", [1])
        with pytest.raises(SessionBusy):
            memory.forget("t", [1])  # it is open here

        def fails(*anything: object, **more: object) -> None:
            raise SleepFailed("no use")

        monkeypatch.setattr(scratch_module, "reread", fails)
        monkeypatch.setattr("agentsleep.memory.past.forgetting.reread", fails)
        with pytest.raises(SleepFailed):
            memory.forget(session, [1])
        assert (events(session), [one.id for one in session.history()]) == before
        assert_whole(session)


def test_an_archive_of_ones_own_stays_open(nap: Path, archive: Path) -> None:
    with Archive(archive) as mine:
        with SleepMemory(nap, archive=mine) as memory, memory.session("t") as session:
            session.add("user", FACT)
        assert mine.users() == [("default", "default")]


def test_a_fork_that_said_nothing_goes_alone(memory: SleepMemory) -> None:
    with memory.session("t") as session:
        fill(session, 9)
        memory.fork(session.history()[0], "silent").close()
        before = events(session)
        report = memory.forget("silent")
        assert (report.threads, report.rebuilt, report.messages) == (("silent",), (), 0)
        assert events(session) == before
        assert_whole(session)
    assert [one.scope.thread for one in memory.sessions()] == ["t"]


def test_a_fork_from_the_middle_of_a_turn_stays_whole(memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is forgotten comes behind the turn; the turn is read again all the same, and the fork with it."""
    with memory.session("t") as session:
        fill(session, 7)
        rig(monkeypatch, says(memory, "bob alice " * 5))
        session.generate(max_new_tokens=30)
        inside = session.history()[-1]
        assert events(session)[inside.span[1] - 1].data["open_turn"]
        branch = memory.fork(inside, "branch")
        fill(branch, 2)
        branch.sleep()
        told = [event.text for event in branch.messages() if event.text]
        branch.close()
        session.add("user", SECRET)
        session.sleep()
        report = memory.forget(session, [place_of(session, SECRET)])
        assert {*report.rebuilt} == {"t", "branch"}
        assert_whole(session)
    with memory.session("branch", tools=()) as branch:
        assert [event.text for event in branch.messages() if event.text] == told
        assert_whole(branch)
    assert memory.archive.user("default", "default").verify().findings == ()


@pytest.fixture
def told_twice(opened: Open) -> SleepMemory:
    """A thread and its fork, both read again since, so that the fork holds what it once inherited as its own."""
    memory = opened(SleepPolicy(trigger=("messages", 4)))
    with memory.session("t") as session:
        session.add("user", "an apple a day .")
        fill(session, 2)
        session.add("user", SECRET)
        fill(session, 4)
        memory.fork(session.history()[-1], "branch").close()
        memory.forget(session, [0])
    with memory.session("branch", tools=()) as branch:
        branch.add("user", FACT)
        assert SECRET in [event.text for event in branch.archive.events(branch.id, 0)]
    return memory


@pytest.mark.parametrize("where", ["t", "branch"])
def test_copies_are_forgotten_too(told_twice: SleepMemory, where: str) -> None:
    with told_twice.session(where, tools=()) as session:
        report = told_twice.forget(session, [place_of(session, SECRET)])
    assert {*report.rebuilt} == {"t", "branch"}
    assert report.repeats == ()
    for thread in ("t", "branch"):
        with told_twice.session(thread, tools=()) as session:
            assert SECRET not in [event.text for event in session.messages()]
            assert_whole(session)
    assert told_twice.archive.user("default", "default").search("zelda") == []


def test_a_fork_that_goes_takes_nothing_from_where_it_came(told_twice: SleepMemory) -> None:
    with told_twice.session("t", tools=()) as session:
        before = events(session)
        told_twice.forget("branch")
        assert events(session) == before
        assert_whole(session)


def test_a_thread_that_goes_takes_its_copies(told_twice: SleepMemory) -> None:
    assert told_twice.forget("t").rebuilt == ("branch",)
    with told_twice.session("branch", tools=()) as branch:
        assert [event.text for event in branch.messages()] == [FACT]
        assert_whole(branch)
