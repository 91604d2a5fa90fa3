"""The sessions behind threads: what is new is read once, and where a list parts from the log a branch reads on."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from tests.talk import (
    FACTS,
    NEVER,
    SCOPE,
    Open,
    assert_whole,
    config,
    handle_in,
    heard,
    humans,
    log_of,
    names,
    said_in,
    same,
    say,
    saying,
)

from agentsleep.errors import EmptyMessage, SessionBusy
from agentsleep.memory import Session, SleepMemory
from agentsleep.policy import SleepPolicy
from langchain_agentsleep import AmbiguousHistory, ChatSleep, UnsupportedMessage, threads
from langchain_agentsleep.branches import Handle
from langchain_agentsleep.threads import threads_of

SLEEPY = SleepPolicy(trigger=("tokens", 30))


@pytest.fixture
def memory(opened: Open) -> SleepMemory:
    """Sleeps only when it must, and forgets everything at the end of the test."""
    return opened(where=":memory:")


@pytest.fixture
def chat(memory: SleepMemory) -> ChatSleep:
    return ChatSleep(memory, max_tokens=8, timeout=0.0)


@pytest.fixture
def sleepy(opened: Open) -> ChatSleep:
    """Sleeps on 30 tokens."""
    return ChatSleep(opened(SLEEPY, where=":memory:", window=48), max_tokens=8, timeout=0.0)


def converse(chat: ChatSleep, turns: int, thread: str = "t") -> list[BaseMessage]:
    """A conversation of so many turns, 9 tokens each."""
    messages: list[BaseMessage] = []
    for fact in FACTS[:turns]:
        messages.append(HumanMessage(fact, id=f"h{len(messages)}"))
        messages.append(say(chat, messages, "noted", thread))
    return messages


def texts(messages: list[BaseMessage]) -> list[tuple[str, Any]]:
    """Who says what in a list."""
    roles = {"human": "user", "ai": "assistant", "AIMessageChunk": "assistant"}
    return [(roles.get(one.type, one.type), one.content) for one in messages]


def branches(memory: SleepMemory, thread: str = "t") -> list[str]:
    """The threads that serve a thread under other names."""
    return [one for one in names(memory) if one.startswith(f"{thread}@")]


def assert_hears(chat: ChatSleep, handle: Handle, messages: list[BaseMessage]) -> None:
    """The session of a handle equals one that reads this list, and nothing else, from nothing."""
    whole = [(one, False) for one in texts(messages)]
    memory = chat.memory
    with threads_of(memory).family(SCOPE).use(handle, 0.0) as session, memory.scratch() as fresh:
        assert session is not None
        assert_whole(session)
        for place, ((role, text), _) in enumerate(whole):
            follows = place + 1 < len(whole) and whole[place + 1][0][0] == "assistant"
            fresh.add(role, text, asked=follows and role != "assistant")  # type: ignore[arg-type]
        assert session.window.ids == fresh.window.ids
        assert same(session.state, fresh.state)
        assert _greedy(session) == _greedy(fresh)


def _greedy(session: Session) -> str:
    return session.ask("who comes 2 after bob ?", remember=False, max_new_tokens=6).text


# What is new


def test_only_what_is_new_is_read(chat: ChatSleep) -> None:
    messages = converse(chat, 3)
    assert names(chat.memory) == ["t"]
    assert said_in(chat.memory) == texts(messages)
    assert messages[-1].usage_metadata["input_token_details"]["cache_read"] == 18  # type: ignore[attr-defined]
    assert_hears(chat, handle_in(messages[-1]), messages)  # type: ignore[arg-type]


def test_messages_that_repeat_are_read_each_time(chat: ChatSleep) -> None:
    messages: list[BaseMessage] = []
    for _ in range(3):
        messages += humans("ok")
        messages.append(say(chat, messages, "ok"))
    messages += humans("ok", "ok")
    messages.append(say(chat, messages, "ok"))
    assert names(chat.memory) == ["t"]
    assert said_in(chat.memory) == texts(messages)


def test_what_is_consolidated_may_leave_the_list(sleepy: ChatSleep) -> None:
    messages = converse(sleepy, 4)
    family = threads_of(sleepy.memory).family(SCOPE)
    handle = handle_in(messages[-1])  # type: ignore[arg-type]
    gone = family.consolidated(handle)
    assert 2 <= len(gone) < len(messages)
    assert {"h0", messages[1].id} <= gone
    kept = [one for one in messages if one.id not in gone]
    for given in (None, handle):
        answer = say(sleepy, [*kept, HumanMessage("ok", id="h8")], "noted", handle=given)
        messages += [HumanMessage("ok"), answer]
        handle = handle_in(answer)
        assert handle["session"] == handle_in(messages[1])["session"] or given, "the second time it is asked again"
        assert_hears(sleepy, handle, messages)
        messages = messages[:-2]
    assert handle_in(answer)["session"] != handle_in(messages[1])["session"]  # type: ignore[arg-type]


def test_with_a_handle_everything_may_have_left_the_list(sleepy: ChatSleep) -> None:
    messages = converse(sleepy, 3)
    with threads_of(sleepy.memory).family(SCOPE).use(None, 0.0) as session:
        assert session is not None
        session.sleep()
    answer = say(sleepy, [HumanMessage(FACTS[0], id="new")], "noted", handle=handle_in(messages[-1]))  # type: ignore[arg-type]
    assert names(sleepy.memory) == ["t"]
    assert said_in(sleepy.memory) == [*texts(messages), ("user", FACTS[0]), ("assistant", "noted")]
    assert handle_in(answer)["snapshot"] is not None


def test_a_whole_list_is_read_as_it_was_read_bit_by_bit(sleepy: ChatSleep) -> None:
    messages = converse(sleepy, 6)
    last = say(sleepy, [*messages, *humans("ok")], "noted")
    at_once = say(sleepy, [*messages, *humans("ok")], "noted", "u")
    family = threads_of(sleepy.memory)
    with (
        family.family(SCOPE).use(handle_in(last), 0.0) as one,
        family.family(SCOPE).use(handle_in(at_once), 0.0) as other,
    ):
        assert one is not None
        assert other is not None
        assert one.position().slept_on
        assert one.window.ids == other.window.ids
        assert same(one.state, other.state)


# Where it parts


def test_an_edited_message_is_read_by_a_branch_and_the_thread_stays(chat: ChatSleep) -> None:
    messages = converse(chat, 3)
    edited = [*messages[:2], HumanMessage("ok", id="h2"), *messages[3:]]
    answer = say(chat, [*edited, *humans("ok")], "unknown")
    assert said_in(chat.memory) == texts(messages)
    assert len(branches(chat.memory)) == 1
    assert_hears(chat, handle_in(answer), [*edited, *humans("ok"), answer])
    more = say(chat, [*edited, *humans("ok"), answer, *humans("ok")], "noted")
    assert handle_in(more)["session"] == handle_in(answer)["session"], "it goes on in its branch"
    other = say(chat, [*messages, *humans("ok")], "noted")
    assert handle_in(other)["session"] == handle_in(messages[1])["session"], "and so does the thread"  # type: ignore[arg-type]
    assert len(names(chat.memory)) == 2


def test_a_branch_begins_at_the_deepest_snapshot_that_matches(sleepy: ChatSleep) -> None:
    messages = converse(sleepy, 9)
    family = threads_of(sleepy.memory).family(SCOPE)
    with family.use(None, 0.0) as session:
        assert session is not None
        history = session.history()
    assert len(history) >= 2
    edited = [*messages[:12], *humans("ok")]
    answer = say(sleepy, edited, "noted")
    with family.use(handle_in(answer), 0.0) as session:
        assert session is not None
        stands = len([one for one in heard(sleepy.memory) if one.stop <= history[-1].span[1]])
        assert stands >= 2
        assert session.history()[0].id == history[0].id, "inherited, not made again"
    assert_hears(sleepy, handle_in(answer), [*edited, answer])


def test_a_thread_may_be_edited_after_its_head_has_left_the_list(sleepy: ChatSleep) -> None:
    messages = converse(sleepy, 6)
    handle = handle_in(messages[-1])  # type: ignore[arg-type]
    gone = threads_of(sleepy.memory).family(SCOPE).consolidated(handle)
    assert 2 <= len(gone) <= 8
    kept = [one for one in messages if one.id not in gone]
    head = len(messages) - len(kept)
    places = [0 if kept[0].type == "human" else 1, -2]
    for place, given in ((places[0], None), (places[0], handle), (places[1], None), (places[1], handle)):
        edited = [*kept]
        edited[place] = HumanMessage("ok", id=kept[place].id)
        asked = [*edited, *humans("look up bob .")]
        answer = say(sleepy, asked, "noted", handle=given)
        assert_hears(sleepy, handle_in(answer), [*messages[:head], *asked, answer])
    assert said_in(sleepy.memory) == texts(messages)


def test_the_same_list_again_is_answered_by_a_branch_and_the_first_answer_stays(chat: ChatSleep) -> None:
    asked = humans(FACTS[0])
    first, second = say(chat, asked, "noted"), say(chat, asked, "unknown")
    assert said_in(chat.memory) == texts([*asked, first])
    assert_hears(chat, handle_in(second), [*asked, second])
    for answer in (first, second):
        more = say(chat, [*asked, answer, *humans("ok")], "noted")
        assert handle_in(more)["session"] == handle_in(answer)["session"]
    assert len(names(chat.memory)) == 2


@pytest.mark.parametrize("turns", [0, 1, 3])
@pytest.mark.parametrize("kept", [True, False])
def test_a_message_that_is_a_question_only_now_is_read_as_one(sleepy: ChatSleep, kept: bool, turns: int) -> None:
    """The thread goes back behind the first of two messages in a row, or before it and the user says the same again."""
    messages = converse(sleepy, turns)
    messages += [HumanMessage(FACTS[7], id="one"), HumanMessage(FACTS[8], id="two")]
    say(sleepy, messages, "noted")
    back = messages[:-1] if kept else [*messages[:-2], HumanMessage(FACTS[7], id="again")]
    answer = say(sleepy, back, "noted")
    assert len(branches(sleepy.memory)) == 1
    family = threads_of(sleepy.memory).family(SCOPE)
    with family.use(handle_in(answer), 5.0) as session:
        assert session is not None
        assert_whole(session)
        said = [event for event in session.messages() if not event.data.get("open")]
        assert [(event.role, event.text) for event in said] == texts([*back, answer])
        assert [bool(event.data.get("asked")) for event in said] == [True, False] * (turns + 1)


def test_a_rewound_state_takes_its_handle_along(chat: ChatSleep) -> None:
    messages = converse(chat, 3)
    early = handle_in(messages[1])  # type: ignore[arg-type]
    answer = say(chat, [*messages[:2], HumanMessage("ok", id="new")], "noted", handle=early)
    assert handle_in(answer)["session"] != early["session"]
    assert_hears(chat, handle_in(answer), [*messages[:2], *humans("ok"), answer])
    assert said_in(chat.memory) == texts(messages)


def test_ids_that_a_client_gives_anew_change_nothing(chat: ChatSleep) -> None:
    messages: list[BaseMessage] = []
    for number, fact in enumerate(FACTS[:3]):
        again = [one.model_copy(update={"id": f"{number}-{i}"}) for i, one in enumerate(messages)]
        messages = [*again, HumanMessage(fact, id=f"{number}-new")]
        messages.append(say(chat, messages, "noted"))
    assert names(chat.memory) == ["t"]
    assert said_in(chat.memory) == texts(messages)


def test_what_is_ambiguous_is_an_error_and_nothing_is_lost(sleepy: ChatSleep) -> None:
    said = [("ok", "noted"), ("ok", "noted"), ("the build is late today .", "noted"), ("ok", "unknown")]
    messages: list[BaseMessage] = []
    for text, answer in said:
        messages += humans(text)
        messages.append(say(sleepy, messages, answer).model_copy(update={"id": None}))
    with threads_of(sleepy.memory).family(SCOPE).use(None, 0.0) as session:
        assert session is not None
        session.sleep()
    before = log_of(sleepy.memory)
    asked = [HumanMessage("ok"), AIMessage("noted"), HumanMessage("look up bob .")]
    with pytest.raises(AmbiguousHistory, match=r"at message 0 of t \(event \d+\), and at message 2 of t \(event \d+\)"):
        say(sleepy, asked)
    assert log_of(sleepy.memory) == before
    assert names(sleepy.memory) == ["t"]
    answer = say(sleepy, [*messages, *humans("ok")], "noted")
    assert said_in(sleepy.memory) == texts([*messages, *humans("ok"), answer])
    assert_whole_of(sleepy, answer)


# Handles


def test_a_state_that_was_copied_into_another_thread_takes_the_memory_along(chat: ChatSleep) -> None:
    messages = converse(chat, 2)
    before = log_of(chat.memory)
    handle = handle_in(messages[-1])  # type: ignore[arg-type]
    for _ in range(2):
        answer = say(chat, [*messages, *humans("ok")], "noted", "u", handle=handle)
        assert handle_in(answer)["session"] != handle["session"]
        assert_hears(chat, handle_in(answer), [*messages, *humans("ok"), answer])
        assert log_of(chat.memory) == before
    more = say(chat, [*messages, *humans("ok"), answer, *humans("ok")], "noted", "u", handle=handle_in(answer))
    assert handle_in(more)["session"] == handle_in(answer)["session"]
    assert branches(chat.memory) == []
    assert len(branches(chat.memory, "u")) == 2
    other = say(chat, [*messages, *humans("ok")], "noted", handle=handle)
    assert handle_in(other)["session"] == handle["session"], "whose thread goes on as well"


@pytest.mark.parametrize("whose", ["nobody's", "another user's"])
def test_a_handle_that_names_no_session_of_the_user_is_as_good_as_none(chat: ChatSleep, whose: str) -> None:
    messages = converse(chat, 2)
    other = say(chat, humans("ok"), "noted", user_id="other")
    handle = Handle(session="0" * 32, snapshot=None, position=2) if whose == "nobody's" else handle_in(other)
    answer = say(chat, [*messages, *humans("ok")], "noted", handle=handle)
    assert names(chat.memory) == ["t"]
    assert_hears(chat, handle_in(answer), [*messages, *humans("ok"), answer])
    assert said_in(chat.memory, user="other") == [("user", "ok"), ("assistant", "noted")]


def test_two_users_with_the_same_thread_know_nothing_of_each_other(chat: ChatSleep) -> None:
    asked = humans(FACTS[0])
    one = say(chat, asked, "noted", user_id="one")
    other = say(chat, asked, "unknown", user_id="two", tenant_id="else")
    third = say(chat, [*asked, one, *humans("ok")], "noted", user_id="three")
    for user, tenant, messages in (
        ("one", "default", [*asked, one]),
        ("two", "else", [*asked, other]),
        ("three", "default", [*asked, one, *humans("ok"), third]),
    ):
        assert names(chat.memory, user=user, tenant=tenant) == ["t"]
        assert said_in(chat.memory, user=user, tenant=tenant) == texts(messages)
    assert names(chat.memory) == []


def test_a_rollback_between_two_calls_is_where_the_thread_goes_on(sleepy: ChatSleep) -> None:
    memory = sleepy.memory
    messages = converse(sleepy, 8)
    handle = handle_in(messages[-1])  # type: ignore[arg-type]
    with memory.session("t", tools=None) as session:
        first, *later = session.history()
        assert later
        with memory.rollback(session, first, "aside") as back:
            new = back.id
    for given in (handle, None):
        answer = say(sleepy, [*messages, *humans("ok")], "noted", handle=given)
        if given:
            assert handle_in(answer)["session"] == new
            assert said_in(memory, "aside") == texts(messages)
        assert_hears(sleepy, handle_in(answer), [*messages, *humans("ok"), answer])
    assert names(memory)[:2] in (["t", "aside"], ["aside", "t"])


def test_a_rollback_takes_along_a_list_whose_head_is_gone(sleepy: ChatSleep) -> None:
    memory = sleepy.memory
    messages = converse(sleepy, 6)
    with memory.session("t", tools=None) as session, memory.rollback(session, session.history()[0], "aside") as back:
        new, known = back.id, len(heard(memory))
    answer = say(sleepy, [*messages[-1:], HumanMessage("ok", id="x")], "noted", handle=handle_in(messages[-1]))  # type: ignore[arg-type]
    assert handle_in(answer)["session"] == new
    assert said_in(memory) == [*texts(messages)[:known], ("assistant", "noted"), ("user", "ok"), ("assistant", "noted")]


# What breaks


class Broken(Exception):
    """What a call breaks off with."""


def breaking(at: int) -> Callable[[int], None]:
    """Breaks off before this token."""

    def before(number: int) -> None:
        if number == at:
            raise Broken

    return before


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_list_is_answered_again_after_a_failure(chat: ChatSleep, at: int) -> None:
    messages = converse(chat, 1)
    asked = [*messages, *humans("ok")]
    options = saying(chat.memory, FACTS[0], breaking(at))
    with pytest.raises(Broken):
        chat.invoke(asked, config(), max_tokens=options.pop("max_new_tokens"), **options)
    answer = say(chat, asked, "noted")
    with threads_of(chat.memory).family(SCOPE).use(handle_in(answer), 0.0) as session:
        assert session is not None
        assert_whole(session)
    if at:  # what was written of the answer stays in a session of its own
        assert_hears(chat, handle_in(answer), [*asked, answer])
        assert len(said_in(chat.memory)) == 4


def test_a_list_is_answered_again_after_its_stream_was_left(chat: ChatSleep) -> None:
    asked = humans("ok")
    options = saying(chat.memory, FACTS[0])
    with closing(chat.stream(asked, config(), max_tokens=options.pop("max_new_tokens"), **options)) as stream:
        next(stream)  # type: ignore[call-overload]
    answer = say(chat, asked, "noted")
    assert_hears(chat, handle_in(answer), [*asked, answer])
    assert len(names(chat.memory)) == 2


def test_an_answer_that_was_cut_and_kept_is_what_was_heard(chat: ChatSleep) -> None:
    asked = humans("ok")
    written = saying(chat.memory, FACTS[0])["logits_processor"]
    cut = chat.invoke(asked, config(), max_tokens=2, logits_processor=written)
    assert cut.response_metadata["finish_reason"] == "length"
    more = say(chat, [*asked, cut, *humans("ok")], "noted")
    assert handle_in(more)["session"] == handle_in(cut)["session"]
    assert len(names(chat.memory)) == 1


def test_what_cannot_be_read_is_refused_before_anything_is_read(chat: ChatSleep) -> None:
    picture = HumanMessage([{"type": "image_url", "image_url": {"url": "x"}}])
    with pytest.raises(UnsupportedMessage):
        say(chat, [*humans("ok"), picture])
    assert names(chat.memory) == []
    messages = converse(chat, 1)
    before = log_of(chat.memory)
    with pytest.raises(UnsupportedMessage):
        say(chat, [*messages, *humans("ok"), picture])
    assert log_of(chat.memory) == before


def test_a_message_that_the_session_refuses_can_be_left_out(chat: ChatSleep) -> None:
    with pytest.raises(EmptyMessage):
        say(chat, humans("ok", " "))
    answer = say(chat, humans("ok", "fine"), "noted")
    assert names(chat.memory) == ["t"]
    assert said_in(chat.memory) == [("user", "ok"), ("user", "fine"), ("assistant", "noted")]
    assert_whole_of(chat, answer)


def assert_whole_of(chat: ChatSleep, answer: AIMessage) -> None:
    with threads_of(chat.memory).family(SCOPE).use(handle_in(answer), 0.0) as session:
        assert session is not None
        assert_whole(session)


def test_a_blank_answer_is_none(chat: ChatSleep) -> None:
    end = chat.memory.chat.end  # type: ignore[attr-defined]
    blank = saying(chat.memory, "x", lambda number: None)["logits_processor"]
    blank[0]._ids = [end]
    asked = humans("ok")
    nothing = chat.invoke(asked, config(), logits_processor=blank)
    assert nothing.content == ""
    answer = say(chat, [*asked, nothing, *humans("well ?")], "noted")
    assert names(chat.memory) == ["t"]
    assert [role for role, _ in said_in(chat.memory)] == ["user", "assistant", "user", "assistant"]
    more = say(chat, [*asked, *humans("well ?"), answer, *humans("ok")], "noted")
    assert handle_in(more)["session"] == handle_in(answer)["session"], "a client may leave it out"
    say(chat, [*humans("ok"), AIMessage(" "), *humans("ok")], "noted", "u")
    assert [role for role, _ in said_in(chat.memory, "u")] == ["user", "user", "assistant"]


def calling(*people: str, **more: Any) -> AIMessage:
    """Another model's turn that looks people up."""
    calls = [
        {"name": "look_up", "args": {"person": person}, "id": f"c{i}", "type": "tool_call"}
        for i, person in enumerate(people)
    ]
    return AIMessage("", tool_calls=calls, **more)


@pytest.mark.parametrize("ids", [True, False])
def test_another_models_calls_are_read_in_parts_and_found_again(chat: ChatSleep, ids: bool) -> None:
    asked = [
        *humans("ok"),
        calling("bob", "carol", id="c" if ids else None),
        ToolMessage("alice", tool_call_id="c0"),
        ToolMessage("", tool_call_id="c1"),
    ]
    answer = say(chat, asked, "noted")
    assert [role for role, _ in said_in(chat.memory)] == ["user", "assistant", "assistant", "tool", "tool", "assistant"]
    assert len(heard(chat.memory)) == 5
    more = say(chat, [*asked, answer, *humans("ok")], "noted")
    assert names(chat.memory) == ["t"]
    say(chat, [*asked[:2], ToolMessage("dave", tool_call_id="c0")], "noted")
    third = say(chat, [*asked, answer, *humans("ok"), more, *humans("ok")], "noted")
    assert handle_in(third)["session"] == handle_in(answer)["session"]
    [branch] = branches(chat.memory)
    assert [one.key for one in heard(chat.memory, branch)][:2] == [one.key for one in heard(chat.memory)][:2]


def test_a_branch_knows_the_ids_and_parts_of_what_it_has_read_again(chat: ChatSleep) -> None:
    asked = [*humans("ok"), calling("bob", "carol", id="c"), ToolMessage("alice", tool_call_id="c0")]
    answer = say(chat, asked, "noted")
    other = say(chat, [*asked, answer, *humans("ok")], "noted")
    say(chat, [*asked, answer, *humans("well ?")], "noted")
    [branch] = branches(chat.memory)
    assert [one.id for one in heard(chat.memory, branch)][:4] == [None, "c", None, answer.id]
    assert handle_in(other)["session"] == handle_in(answer)["session"]


def test_parts_that_a_crash_has_cut_off_are_read_again_in_a_branch(
    chat: ChatSleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [*humans("ok"), calling("bob", "carol"), ToolMessage("alice", tool_call_id="c0")]
    add = Session.add

    def crashing(session: Session, role: Any, text: str, **more: Any) -> Any:
        if more["metadata"]["langchain"]["part"] == 1:
            raise Broken
        return add(session, role, text, **more)

    monkeypatch.setattr(Session, "add", crashing)
    with pytest.raises(Broken):
        say(chat, asked, "noted")
    monkeypatch.setattr(Session, "add", add)
    for one in heard(chat.memory)[1:]:
        assert one.key is None
    answer = say(chat, asked, "noted")
    [branch] = branches(chat.memory)
    assert len(heard(chat.memory, branch)) == 4
    more = say(chat, [*asked, answer, *humans("ok")], "noted")
    assert handle_in(more)["session"] == handle_in(answer)["session"]
    assert_whole_of(chat, more)


def test_a_turn_that_a_kill_has_cut_stays_and_is_answered_by_a_branch(opened: Open, nap: Path, archive: Path) -> None:
    asked = [HumanMessage(FACTS[0]), AIMessage("noted"), HumanMessage(FACTS[1])]
    long = " ".join(FACTS[:12])
    pid = os.fork()
    if pid == 0:  # the window holds 48 tokens: a sleep falls into the turn, and then it is killed
        with suppress(BaseException):
            dying = SleepMemory(nap, archive=archive, policy=NEVER, settings={"window": 48})
            options = saying(dying, long, lambda number: os.kill(os.getpid(), signal.SIGKILL) if number == 40 else None)
            for _ in ChatSleep(dying).stream(asked, config(), max_tokens=options.pop("max_new_tokens"), **options):
                pass
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    chat = ChatSleep(opened(window=48), timeout=0.0)
    log = log_of(chat.memory)
    assert [event.kind for event in log][-2:] == ["tokens", "sleep"]
    assert log[-2].data["open"]
    answer = say(chat, asked, "noted")
    assert_hears(chat, handle_in(answer), [*asked, answer])
    kept = said_in(chat.memory)
    assert len(kept) == 4
    assert long.startswith(str(kept[-1][1])), "what was slept on of the turn that was cut"
    more = say(chat, [*asked, answer, *humans("ok")], "noted")
    assert handle_in(more)["session"] == handle_in(answer)["session"]


# At once, elsewhere, later


def waiting(chat: ChatSleep, seconds: float) -> ChatSleep:
    """The same model, more patient."""
    return ChatSleep(chat.memory, timeout=seconds)


class Slow:
    """A call that is in the middle of its answer until :meth:`go`."""

    def __init__(self, chat: ChatSleep, asked: list[BaseMessage], thread: str = "t") -> None:
        self._inside, self._go = threading.Event(), threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._answer = self._pool.submit(self._call, chat, asked, thread)
        assert self._inside.wait(60)

    def _call(self, chat: ChatSleep, asked: list[BaseMessage], thread: str) -> AIMessage:
        options = saying(chat.memory, "noted")
        stream = chat.stream(asked, config(thread), max_tokens=options.pop("max_new_tokens"), **options)
        whole = next(stream)
        self._inside.set()
        assert self._go.wait(60)
        for piece in stream:
            whole = whole + piece  # type: ignore[assignment]
        return whole

    def go(self) -> AIMessage:
        """Lets it end."""
        self._go.set()
        self._pool.shutdown()
        return self._answer.result()


@pytest.fixture
def patient() -> Iterator[Callable[..., Any]]:
    """Calls something in another thread."""
    with ThreadPoolExecutor(4) as pool:
        yield pool.submit


def test_two_threads_at_once_do_not_mix(chat: ChatSleep, patient: Callable[..., Any]) -> None:
    lists = [humans(fact) for fact in FACTS[:4]]
    found = [patient(say, chat, asked, "noted", f"t{i}") for i, asked in enumerate(lists)]
    answers = [one.result() for one in found]
    for i, (asked, answer) in enumerate(zip(lists, answers, strict=True)):
        assert said_in(chat.memory, f"t{i}") == texts([*asked, answer])


def test_a_thread_in_use_is_busy(chat: ChatSleep) -> None:
    asked = humans("ok")
    slow = Slow(chat, asked)
    with pytest.raises(SessionBusy, match="another call of this process"):
        say(chat, asked)
    assert say(chat, asked, "noted", "u").content == "noted", "another one is not"
    answer = slow.go()
    assert said_in(chat.memory) == texts([*asked, answer])


def test_or_is_waited_for_and_looked_at_anew(chat: ChatSleep, patient: Callable[..., Any]) -> None:
    asked = humans("ok")
    slow = Slow(chat, asked)
    second = patient(say, waiting(chat, 60), asked, "unknown")
    time.sleep(0.1)
    first = slow.go()
    assert said_in(chat.memory) == texts([*asked, first])
    assert_hears(chat, handle_in(second.result()), [*asked, second.result()])


def test_another_process_is_waited_for_and_looked_at_anew(opened: Open, patient: Callable[..., Any]) -> None:
    here, there = (ChatSleep(opened(), timeout=0.0) for _ in range(2))
    messages = converse(here, 1)
    say(there, [*messages, *humans("ok")], "noted")
    asked = [*messages, *humans("ok"), AIMessage("noted"), *humans("well ?")]
    slow = Slow(there, asked)
    with pytest.raises(SessionBusy):
        say(here, asked)
    here.close()
    second = patient(say, waiting(here, 60), asked, "unknown")
    time.sleep(0.3)
    first = slow.go()
    answer = second.result()
    assert handle_in(answer)["session"] != handle_in(first)["session"], "it does not go on behind the other answer"
    assert said_in(here.memory) == texts([*asked, first])
    assert_hears(here, handle_in(answer), [*asked, answer])


def test_what_another_process_has_written_is_known(opened: Open) -> None:
    here, there = (ChatSleep(opened(SLEEPY, window=48), timeout=0.0) for _ in range(2))
    messages: list[BaseMessage] = []
    for number in range(6):
        messages += humans(FACTS[number])
        messages.append(say((here, there)[number % 2], messages, "noted"))
    assert names(here.memory) == ["t"]
    assert_hears(here, handle_in(messages[-1]), messages)  # type: ignore[arg-type]
    with there.memory.session("t", tools=None) as session:
        session.add("user", "which the list does not have")
    answer = say(here, [*messages, *humans("ok")], "noted")
    assert len(branches(here.memory)) == 1
    assert_hears(here, handle_in(answer), [*messages, *humans("ok"), answer])


@pytest.mark.parametrize("handles", [True, False])
def test_a_restart_changes_nothing(opened: Open, handles: bool) -> None:
    messages: list[BaseMessage] = []
    for fact in FACTS[:5]:
        chat = ChatSleep(opened(SLEEPY, window=48), timeout=0.0)
        handle = handle_in(messages[-1]) if messages and handles else None  # type: ignore[arg-type]
        messages += humans(fact)
        messages.append(say(chat, messages, "noted", handle=handle))
        chat.memory.close()
    chat = ChatSleep(opened(SLEEPY, window=48), timeout=0.0)
    assert names(chat.memory) == ["t"]
    assert_hears(chat, handle_in(messages[-1]), messages)  # type: ignore[arg-type]


def test_a_message_that_was_forgotten_is_new_where_the_list_still_has_it(sleepy: ChatSleep) -> None:
    messages = converse(sleepy, 5)
    seq = heard(sleepy.memory)[4].start
    sleepy.memory.forget("t", [seq])
    assert len(heard(sleepy.memory)) == 9
    without = [*messages[:4], *messages[5:]]
    answer = say(sleepy, [*without, *humans("ok")], "noted")
    assert names(sleepy.memory) == ["t"], "a list that has forgotten it too goes on"
    assert_whole_of(sleepy, answer)
    again = say(sleepy, [*messages, *humans("ok")], "noted")
    assert len(branches(sleepy.memory)) == 1
    assert_hears(sleepy, handle_in(again), [*messages, *humans("ok"), again])


def test_a_thread_that_was_forgotten_begins_anew(chat: ChatSleep) -> None:
    messages = converse(chat, 2)
    chat.memory.forget("t")
    answer = say(chat, [*messages, *humans("ok")], "noted", handle=handle_in(messages[-1]))  # type: ignore[arg-type]
    assert names(chat.memory) == ["t"]
    assert_hears(chat, handle_in(answer), [*messages, *humans("ok"), answer])


def test_a_policy_is_that_of_the_call(opened: Open) -> None:
    memory = opened(where=":memory:", window=48)
    family = threads_of(memory).family(SCOPE)
    from langchain_agentsleep.messages import listed

    _, said = listed([*humans(*FACTS[:7])])
    with family.turn(said[:4], timeout=0.0, policy=None) as turn:
        assert turn.session.head is None
    with family.turn(said[:7], timeout=0.0, policy=SLEEPY) as turn:
        assert turn.session.head is not None
        assert_whole(turn.session)


def test_the_system_message_is_pinned_and_may_change(chat: ChatSleep) -> None:
    asked = humans("ok")
    first = say(chat, [SystemMessage("the build is fine ."), *asked], "noted")
    second = say(chat, [SystemMessage("lunch is late ."), *asked, first, *humans("ok")], "noted")
    assert names(chat.memory) == ["t"]
    assert [e.text for e in log_of(chat.memory) if "pins" in e.data] == ["the build is fine .", "lunch is late ."]
    say(chat, [*asked, first, *humans("ok"), second, *humans("ok")], "noted")
    assert [e.text for e in log_of(chat.memory) if "pins" in e.data][2:] == [None]


# Sessions that are held


def open_sessions(memory: SleepMemory) -> int:
    """How many of a memory's branches have an open session."""
    return len(threads_of(memory)._open)


def test_only_so_many_sessions_stay_open(chat: ChatSleep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_OPEN", 2)
    lists = {f"t{i}": humans(fact) for i, fact in enumerate(FACTS[:5])}
    for thread, asked in lists.items():
        asked.append(say(chat, asked, "noted", thread))
        say(chat, asked[:1], "unknown", thread)
    assert open_sessions(chat.memory) == 2
    assert len(threads_of(chat.memory)._families) <= 2
    for thread, asked in lists.items():
        known = [
            one.model_copy(update={"id": None}) for one in asked
        ]  # so that each session of the thread is looked at
        answer = say(chat, [*known, *humans("ok")], "noted", thread)
        assert handle_in(answer)["session"] == handle_in(asked[-1])["session"]  # type: ignore[arg-type]
        assert said_in(chat.memory, thread) == texts([*asked, *humans("ok"), answer])
    assert open_sessions(chat.memory) == len(threads_of(chat.memory)._families) == 2


def test_close_lets_go_of_what_is_not_in_use(chat: ChatSleep) -> None:
    messages = converse(chat, 1)
    slow = Slow(chat, humans("ok"), "u")
    chat.close()
    assert open_sessions(chat.memory) == 0
    assert slow.go().content == "noted"
    assert open_sessions(chat.memory) == 1
    answer = say(chat, [*messages, *humans("ok")], "noted")
    assert names(chat.memory) == ["t", "u"]
    assert_hears(chat, handle_in(answer), [*messages, *humans("ok"), answer])


def test_close_in_the_middle_of_a_stream_does_not_wait_for_it(chat: ChatSleep) -> None:
    asked = [*converse(chat, 1), *humans("ok")]
    options = saying(chat.memory, FACTS[0])
    stream = chat.stream(asked, config(), max_tokens=options.pop("max_new_tokens"), **options)
    first = next(stream)
    chat.close()
    whole: AIMessageChunk = first
    for piece in stream:
        whole = whole + piece  # type: ignore[assignment]
    assert whole.content == FACTS[0]


def test_a_memory_that_nobody_holds_goes_with_its_threads(opened: Open, nap: Path) -> None:
    memory = SleepMemory(nap, archive=":memory:", policy=NEVER)
    family = threads_of(memory).family(SCOPE)
    assert threads_of(memory) is threads_of(memory)
    chat = ChatSleep(memory)
    say(chat, humans("ok"), "noted")
    gone = weakref.ref(memory)
    held = weakref.ref(family)
    memory.close()
    del memory, chat, family
    gc.collect()
    assert gone() is None
    assert held() is None
