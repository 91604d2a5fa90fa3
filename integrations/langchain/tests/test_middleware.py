"""SleepMiddleware in agents: it sets the policy, and messages leave the list when they are consolidated."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langchain.agents.middleware import (
    AgentMiddleware,
    ClearToolUsesEdit,
    ContextEditingMiddleware,
    HumanInTheLoopMiddleware,
    ModelCallLimitMiddleware,
    ModelRetryMiddleware,
    SummarizationMiddleware,
)
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command, interrupt
from pydantic import BaseModel
from tests.agents import (
    CALL,
    FOUND,
    LOOK,
    Actor,
    Scripted,
    agent_of,
    answer,
    assert_same,
    assert_unsplit,
    handle_in,
    hear,
    ids,
    invoke,
    look_up,
    opened_at,
    told,
    twin,
)
from tests.talk import FACTS, Open, assert_whole, config, names

from agentsleep.archive import UserArchive
from agentsleep.backends import Backend
from agentsleep.chat import ToolCall
from agentsleep.errors import InputError, SettingsError, SleepFailed
from agentsleep.jobs import JobQueue, Worker
from agentsleep.memory import SleepMemory
from agentsleep.policy import SleepPolicy
from langchain_agentsleep import ChatSleep, SleepMiddleware
from langchain_agentsleep.families import Family

LONG = [*FACTS, *FACTS][:14]


@pytest.fixture
def memory(opened: Open) -> SleepMemory:
    """Sleeps only when it must; a window holds two calls of a tool."""
    return opened(window=160)


@pytest.fixture(params=["memory", "sqlite"])
def saver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A checkpointer."""
    if request.param == "memory":
        yield InMemorySaver()
    else:
        with SqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as found:
            yield found


# The policy


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"trigger": ("messages", 3)},
        {"trigger": None},
        {"keep": ("tokens", 9)},
        {"keep": None},
        {"passes": 5},
        {"trigger": {"tokens": 40, "messages": 2}, "keep": ("fraction", 0.2), "passes": 1},
    ],
)
def test_what_is_not_given_is_the_memorys(opened: Open, given: dict[str, Any]) -> None:
    own = SleepPolicy(trigger=("tokens", 50), keep=("messages", 2), passes=3, max_passes=4, max_windows=7)
    assert SleepMiddleware(opened(own), **given).policy == replace(own, **given)


TRIGGERS = [
    ("messages", 4),
    ("tokens", 40),
    ("fraction", 0.5),
    {"tokens": 40, "messages": 4},
    {"fraction": 0.25, "messages": 6},
    [("tokens", 90), ("messages", 4)],
    [{"tokens": 40, "messages": 4}, ("fraction", 0.75)],
    [],
    None,
]


@pytest.mark.parametrize("trigger", TRIGGERS, ids=str)
def test_triggers_mean_what_they_mean_to_langchain(memory: SleepMemory, trigger: Any) -> None:
    theirs = SummarizationMiddleware(
        FakeListChatModel(responses=[""], profile={"max_input_tokens": 100}), trigger=trigger
    )
    ours = SleepMiddleware(memory, trigger=trigger).policy
    for tokens in range(101):
        for messages in range(8):
            said: list[AnyMessage] = [HumanMessage("hello")] * messages
            due = ours.due(tokens=tokens, messages=messages, window=100)
            assert due == theirs._should_summarize(said, tokens), (tokens, messages)


@pytest.mark.parametrize(
    ("wrong", "value"),
    [
        ({"trigger": ("tokens", 0)}, "0"),
        ({"trigger": ("words", 10)}, "words"),
        ({"trigger": ("fraction", 1.5)}, "1.5"),
        ({"trigger": ["tokens", 80]}, "tokens"),
        ({"trigger": {}}, "empty dict"),
        ({"trigger": [{"tokens": -1}]}, "-1"),
        ({"trigger": "often"}, "often"),
        ({"trigger": 80}, "80"),
        ({"keep": ("messages", 0)}, "0"),
        ({"keep": [("messages", 2)]}, "messages"),
        ({"keep": "all"}, "all"),
        ({"passes": 0}, "0"),
        ({"passes": "auto"}, "auto"),
        ({"passes": True}, "True"),
        ({"after": "soon"}, "soon"),
        ({"after": True}, "True"),
        ({"when": "tomorrow"}, "tomorrow"),
        ({"when": None}, "None"),
        ({"rounds": 0}, "rounds is 0"),
        ({"rounds": 1.5}, "rounds is 1.5"),
        ({"window": 0}, "window is 0"),
        ({"window": True}, "window is True"),
    ],
)
def test_settings_out_of_range(memory: SleepMemory, wrong: dict[str, Any], value: str) -> None:
    with pytest.raises(SettingsError, match=value):
        SleepMiddleware(memory, **wrong)


def test_the_sessions_policy_is_the_middlewares(memory: SleepMemory) -> None:
    """The memory's own would never sleep here."""
    sleepy = SleepMiddleware(memory, trigger=("messages", 3), passes=3, after=None)
    agent = agent_of(Actor(memory), sleepy, saver=InMemorySaver())
    passes = [invoke(agent, text)[-1].response_metadata["passes"] for text in LONG[:4]]
    assert passes == [0, 3, 3, 3]
    with twin(memory, sleepy) as plain, opened_at(memory, handle_in(agent), sleepy.policy) as session:
        for text in LONG[:4]:
            hear(plain, memory, text)
        assert [one.passes for one in session.history()] == [3, 3, 3]
        assert_same(session, plain)


# Messages leave


@pytest.mark.parametrize("keep", [None, ("messages", 2)])
def test_messages_leave_when_they_are_consolidated(memory: SleepMemory, saver: Any, keep: Any) -> None:
    sleepy = SleepMiddleware(memory, trigger=("tokens", 110), keep=keep, after=None)
    agent = agent_of(Actor(memory), sleepy, saver=saver)
    everything: list[str] = []
    with twin(memory, sleepy) as plain:
        for text in [*LONG[:6], LOOK, *LONG[6:10], LOOK]:
            before = len(everything)
            messages = invoke(agent, text)
            expected = hear(plain, memory, text, CALL if text == LOOK else None)
            if text == LOOK:
                plain.add("tool", FOUND, asked=True)
                expected = answer(plain, memory)
            assert messages[-1].text == expected
            everything += [one for one in ids(messages) if one not in everything]
            left = len(everything) - len(messages)
            assert ids(messages) == everything[left:]
            said = [event for event in plain.messages() if event.token_ids]
            slept = sum(event.position + len(event.token_ids) <= plain.position().slept_on for event in said)
            assert left == min(slept, len(everything) - 1) or (messages[0].type == "ai" and messages[0].tool_calls)
            assert_unsplit(messages)
            assert len(everything) - before >= 1
        assert left > 6
        with opened_at(memory, handle_in(agent), sleepy.policy) as session:
            assert told(session) == told(plain)
            assert_same(session, plain)
            assert_whole(session)
    for state in agent.get_state_history(config()):
        list_then = state.values.get("messages", [])
        assert_unsplit(list_then[:-1] if list_then and getattr(list_then[-1], "tool_calls", None) else list_then)


def test_the_shipped_model_answers_from_what_has_left(archive: Path) -> None:
    """By two steps over facts that are in no list any more."""
    with SleepMemory(archive=archive) as memory:
        agent = agent_of(ChatSleep(memory, max_tokens=30), SleepMiddleware(memory), tools=[], saver=InMemorySaver())
        for fact in ("alice hands over to bob .", "bob hands over to dave .", "dave hands over to carol ."):
            assert [one.type for one in invoke(agent, fact)] == ["ai"]
        messages = invoke(agent, "who comes 2 after alice ?")
        assert [one.text for one in messages] == ["dave"]


@pytest.mark.parametrize(("after", "deep"), [("light", False), ("deep", True)])
def test_it_sleeps_between_tasks(memory: SleepMemory, saver: Any, after: Any, deep: bool) -> None:
    sleepy = SleepMiddleware(memory, after=after, passes=2, rounds=2)
    agent = agent_of(Actor(memory), sleepy, saver=saver)
    with twin(memory, sleepy) as plain:
        for text in LONG[:3]:
            messages = invoke(agent, text)
            hear(plain, memory, text)
            plain.sleep(deep=deep, passes=2, rounds=2)
            assert [one.type for one in messages] == ["ai"], "the answer stays"
        with opened_at(memory, handle_in(agent), sleepy.policy) as session:
            assert [(one.mode, one.rounds) for one in session.history()] == [
                (one.mode, one.rounds) for one in plain.history()
            ]
            assert_same(session, plain)
            place = session.position()
            assert handle_in(agent) == {"session": session.id, "snapshot": place.head, "position": place.events}


def test_no_sleep_between_tasks(memory: SleepMemory) -> None:
    agent = agent_of(Actor(memory), SleepMiddleware(memory, after=None), saver=InMemorySaver())
    for text in LONG[:3]:
        messages = invoke(agent, text)
    assert len(messages) == 6
    assert handle_in(agent)["snapshot"] is None


def test_the_list_may_be_left_alone(memory: SleepMemory) -> None:
    agent = agent_of(Actor(memory), SleepMiddleware(memory, remove=False), saver=InMemorySaver())
    for text in LONG[:3]:
        messages = invoke(agent, text)
    assert len(messages) == 6
    with opened_at(memory, handle_in(agent)) as session:
        assert len(told(session)) == 6, "each was read once"
        assert len(session.history()) == 3


def test_system_messages_stay(memory: SleepMemory) -> None:
    agent = agent_of(Actor(memory), SleepMiddleware(memory), saver=InMemorySaver())
    agent.invoke({"messages": [SystemMessage("be kind"), HumanMessage(LONG[0])]}, config())
    messages = invoke(agent, LONG[1])
    assert [one.type for one in messages] == ["system", "ai"]
    agent.invoke({"messages": [SystemMessage("be brief"), HumanMessage(LONG[2])]}, config())
    messages = invoke(agent, LONG[3])
    assert [one.text for one in messages if one.type == "system"] == ["be kind", "be brief"]
    with opened_at(memory, handle_in(agent)) as session:
        assert [text for role, text in told(session) if role == "user"] == LONG[:4]
    with_prompt = agent_of(Actor(memory), SleepMiddleware(memory), saver=InMemorySaver(), system_prompt="be kind")
    assert [one.type for one in invoke(with_prompt, LONG[0], "u")] == ["ai"]


def test_an_answer_that_says_nothing_does_not_stop_the_list(memory: SleepMemory) -> None:
    model = Actor(memory, max_tokens=1)
    agent = agent_of(model, SleepMiddleware(memory), saver=InMemorySaver())
    end = memory.chat.end
    model.generation = {"prefix_allowed_tokens_fn": lambda batch, ids: [end]}
    assert [one.text for one in invoke(agent, LONG[0])] == [""]
    model.generation = {}
    model.max_tokens = 6
    assert [one.type for one in invoke(agent, LONG[1])] == ["ai"]


def test_calls_one_after_the_other(memory: SleepMemory) -> None:
    """The second call sleeps on the first one's result, while its own is to come."""
    model = Actor(memory, lines={LOOK: CALL, FOUND: ToolCall("look_up", {"person": "dave"})})
    sleepy = SleepMiddleware(memory, trigger=("messages", 4), after=None)
    agent = agent_of(model, sleepy, saver=InMemorySaver())
    invoke(agent, FACTS[0])
    lists = [
        step["messages"] for step in agent.stream({"messages": [HumanMessage(LOOK)]}, config(), stream_mode="values")
    ]
    for messages in lists:
        assert_unsplit(messages[:-1] if getattr(messages[-1], "tool_calls", None) else messages)
    assert [one.type for one in lists[-1]][-1] == "ai"
    assert min(map(len, lists)) < 4
    with opened_at(memory, handle_in(agent), sleepy.policy) as session:
        roles = ["user", "assistant", "user", *(["assistant", "tool"] * 2), "assistant"]
        assert [role for role, _ in told(session)] == roles


# Later


def test_a_job_sleeps_and_the_next_turn_goes_on_from_there(memory: SleepMemory, opened: Open, saver: Any) -> None:
    sleepy = SleepMiddleware(memory, when="later", passes=3)
    agent = agent_of(Actor(memory), sleepy, saver=saver)
    invoke(agent, LONG[0])
    assert len(invoke(agent, LONG[1])) == 4
    stop = threading.Event()
    worker = threading.Thread(target=Worker(opened(window=160), poll_s=0.02).run, args=(stop,))
    worker.start()
    queue, mine = JobQueue(memory.archive.database), memory.archive.user("default", "default")
    while any(job.status != "done" for job in queue.jobs(mine)):
        threading.Event().wait(0.02)
    stop.set()
    worker.join()
    assert len(agent.get_state(config()).values["messages"]) == 4, "nobody has asked it since"
    messages = invoke(agent, LONG[2])
    assert [one.type for one in messages] == ["human", "ai"]
    with twin(memory, sleepy) as plain, opened_at(memory, handle_in(agent), sleepy.policy) as session:
        for text in LONG[:2]:
            hear(plain, memory, text)
        plain.sleep(passes=3)
        assert hear(plain, memory, LONG[2]) == messages[-1].text
        assert [(one.trigger, one.passes) for one in session.history()] == [("later", 3)]
        assert told(session) == told(plain)
        assert_same(session, plain)
        assert_whole(session)


def test_a_turn_that_comes_before_the_job(memory: SleepMemory, opened: Open) -> None:
    """Its own sleep covers what the job was for."""
    sleepy = SleepMiddleware(memory, when="later", after="light", trigger=("messages", 3))
    agent = agent_of(Actor(memory), sleepy, saver=InMemorySaver())
    invoke(agent, LONG[0])
    messages = invoke(agent, LONG[1])
    assert messages[-1].response_metadata["sleeps"] == 1
    assert len(messages) <= 2
    assert Worker(opened(window=160)).run(drain=True) >= 1
    queue, mine = JobQueue(memory.archive.database), memory.archive.user("default", "default")
    assert {job.status for job in queue.jobs(mine)} == {"done"}
    messages = invoke(agent, LONG[2])
    with opened_at(memory, handle_in(agent), sleepy.policy) as session:
        assert [text for role, text in told(session) if role == "user"] == LONG[:3]
        assert_whole(session)


# Async


async def test_the_event_loop_never_waits(memory: SleepMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that computes or reads the archive runs in its thread."""
    threads: dict[str, set[int]] = {}

    def watched(kind: type, name: str) -> None:
        method = getattr(kind, name)

        def watching(*args: Any, **options: Any) -> Any:
            threads.setdefault(name, set()).add(threading.get_ident())
            return method(*args, **options)

        monkeypatch.setattr(kind, name, watching)

    for kind, method in [
        (Backend, "consolidate"),
        (Family, "consolidated"),
        (UserArchive, "events"),
        (UserArchive, "session"),
    ]:
        watched(kind, method)
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as saver:
        sleepy = SleepMiddleware(memory, trigger=("messages", 3))
        agent = agent_of(Actor(memory), sleepy, saver=saver)
        for text in LONG[:3]:
            found = await agent.ainvoke({"messages": [HumanMessage(text)]}, config())
            assert [one.type for one in found["messages"]] == ["ai"]
        pieces = [
            piece.text
            async for piece, _ in agent.astream({"messages": [HumanMessage(LONG[3])]}, config(), stream_mode="messages")
        ]
        state = (await agent.aget_state(config())).values
    assert set(threads) == {"consolidate", "consolidated", "events", "session"}
    assert threading.get_ident() not in set().union(*threads.values())
    with twin(memory, sleepy) as plain, opened_at(memory, state["agentsleep"], sleepy.policy) as session:
        for text in LONG[:4]:
            last = hear(plain, memory, text)
            plain.sleep()
        assert "".join(pieces).startswith(last)
        assert_same(session, plain)


async def test_cancelled_while_it_sleeps_between_tasks(
    memory: SleepMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may = threading.Event(), threading.Event()
    consolidate = Backend.consolidate

    def slow(self: Backend, *args: Any, **options: Any) -> Any:
        begun.set()
        may.wait(60)
        return consolidate(self, *args, **options)

    monkeypatch.setattr(Backend, "consolidate", slow)
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as saver:
        agent = agent_of(Actor(memory), SleepMiddleware(memory), saver=saver)
        task = asyncio.ensure_future(agent.ainvoke({"messages": [HumanMessage(LONG[0])]}, config()))
        await asyncio.to_thread(begun.wait, 60)
        task.cancel()
        await asyncio.sleep(0.05)
        may.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        state = await agent.aget_state(config())
        assert len(state.values["messages"]) == 2, "the checkpoint is as it was before the sleep"
        found = await agent.ainvoke({"messages": [HumanMessage(LONG[1])]}, config())
        assert [one.type for one in found["messages"]] == ["ai"]
        handle = (await agent.aget_state(config())).values["agentsleep"]
    with opened_at(memory, handle) as session:
        assert [text for role, text in told(session) if role == "user"] == LONG[:2]
        assert len(session.history()) == 2
        assert_whole(session)


# Events


class Heard(BaseCallbackHandler):
    """Keeps custom events, and the runs of models."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any], Any]] = []
        self.models: list[Any] = []

    def on_custom_event(self, name: str, data: Any, *, run_id: Any, **_: Any) -> None:
        self.events.append((name, data, run_id))

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: Any, **_: Any) -> None:
        self.models.append(run_id)


FIELDS = {"session", "mode", "trigger", "tokens", "passes", "rounds"}


def test_sleeps_are_told_to_callback_handlers(memory: SleepMemory) -> None:
    handler = Heard()
    agent = agent_of(Actor(memory), SleepMiddleware(memory, trigger=("messages", 3), passes=3), saver=InMemorySaver())
    agent.invoke({"messages": [HumanMessage(text) for text in LONG[:3]]}, {**config(), "callbacks": [handler]})
    assert [name for name, _, _ in handler.events] == ["sleep_started", "sleep_finished"] * 2
    (_, during, one), (_, done, other), (_, _, between), (_, last, _) = handler.events
    assert one == other == handler.models[0] != between
    assert set(during) == FIELDS
    assert set(done) == FIELDS | {"ms", "snapshot"}
    assert (during["trigger"], last["trigger"]) == ("policy", "asked")
    assert {name: done[name] for name in FIELDS} == during
    assert done["passes"] == 3
    with opened_at(memory, handle_in(agent)) as session:
        assert [one.id for one in session.history()] == [done["snapshot"], last["snapshot"]]
        assert [one.parent for one in session.history()] == [None, done["snapshot"]]
        assert done["tokens"] + last["tokens"] == session.position().tokens
        assert done["ms"] > 0


async def test_sleeps_are_among_the_events_of_a_run(memory: SleepMemory) -> None:
    agent = agent_of(Actor(memory), SleepMiddleware(memory), saver=InMemorySaver())
    long = HumanMessage(" ".join(FACTS * 3))
    events = [e async for e in agent.astream_events({"messages": [long]}, config(), version="v2")]
    model = next(e["run_id"] for e in events if e["event"] == "on_chat_model_start")
    root = events[0]["run_id"]
    sleeps = [e for e in events if e["event"] == "on_custom_event"]
    assert [e["name"] for e in sleeps] == ["sleep_started", "sleep_finished"] * (len(sleeps) // 2)
    within = [e for e in sleeps if e["run_id"] == model]
    assert {e["data"]["trigger"] for e in within} == {"overflow"}
    assert {e["data"]["trigger"] for e in sleeps[len(within) :]} == {"asked"}
    assert all(root in e["parent_ids"] for e in sleeps)
    order = [e["event"] for e in events]
    assert order[-1] == "on_chain_end"
    hook = next(i for i, e in enumerate(events) if e["event"] == "on_chain_end" and "after_agent" in e["name"])
    assert events.index(sleeps[-1]) < hook, "told before the hook returns"


class Deaf(AsyncCallbackHandler):
    async def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
        raise RuntimeError(name)


@pytest.mark.filterwarnings("ignore")
async def test_a_listener_that_fails_stops_nothing(memory: SleepMemory) -> None:
    agent = agent_of(Actor(memory), SleepMiddleware(memory), saver=InMemorySaver())
    found = await agent.ainvoke({"messages": [HumanMessage(LONG[0])]}, {**config(), "callbacks": [Deaf()]})
    assert len(found["messages"]) == 1


# People in the loop


def test_a_call_that_is_approved_edited_or_rejected(memory: SleepMemory, saver: Any) -> None:
    hitl = HumanInTheLoopMiddleware(interrupt_on={"look_up": True})
    sleepy = SleepMiddleware(memory, after=None, trigger=("tokens", 140))
    for thread, order in (("a", (sleepy, hitl)), ("b", (hitl, sleepy))):
        agent = agent_of(Actor(memory), *order, saver=saver)
        invoke(agent, FACTS[0], thread)
        invoke(agent, LOOK, thread)
        assert agent.get_state(config(thread)).next
        agent.invoke(Command(resume={"decisions": [{"type": "approve"}]}), config(thread))
        with opened_at(memory, handle_in(agent, thread), sleepy.policy) as session:
            assert [role for role, _ in told(session)] == [
                "user",
                "assistant",
                "user",
                "assistant",
                "tool",
                "assistant",
            ]
        invoke(agent, LOOK, thread)
        edited = {"type": "edit", "edited_action": {"name": "look_up", "args": {"person": "dave"}}}
        messages = agent.invoke(Command(resume={"decisions": [edited]}), config(thread))["messages"]
        assert_unsplit(messages)
        with opened_at(memory, handle_in(agent, thread), sleepy.policy) as session:
            roles = [role for role, _ in told(session)]
            assert roles[-4:] == ["user", "assistant", "tool", "assistant"]
            assert str(told(session)[-2][1]).endswith("dave hands over to bob .")
        invoke(agent, LOOK, thread)
        no = {"type": "reject", "message": "not now"}
        messages = agent.invoke(Command(resume={"decisions": [no]}), config(thread))["messages"]
        assert_unsplit(messages)
        with opened_at(memory, handle_in(agent, thread), sleepy.policy) as session:
            assert str(told(session)[-2][1]).endswith("not now")
            assert [text for role, text in told(session) if role == "user"] == [FACTS[0], LOOK, LOOK, LOOK]
            assert_whole(session)


def test_a_tool_that_asks_somebody(memory: SleepMemory, saver: Any) -> None:
    def look_up(person: str) -> str:
        """Asks."""
        return str(interrupt(person))

    agent = agent_of(Actor(memory), SleepMiddleware(memory), tools=[look_up], saver=saver)
    invoke(agent, LOOK)
    messages = agent.invoke(Command(resume=FOUND), config())["messages"]
    assert [one.type for one in messages] == ["ai"]
    with opened_at(memory, handle_in(agent)) as session:
        assert [role for role, _ in told(session)] == ["user", "assistant", "tool", "assistant"]
        assert len(names(memory)) == 1


def test_somebody_says_something_else_instead(memory: SleepMemory) -> None:
    """The call has no result, and never will; the list goes on to shrink."""
    hitl = HumanInTheLoopMiddleware(interrupt_on={"look_up": True})
    agent = agent_of(Actor(memory), hitl, SleepMiddleware(memory), saver=InMemorySaver())
    invoke(agent, LOOK)
    assert [one.type for one in invoke(agent, FACTS[0])] == ["ai"]


# Beside other middlewares


@pytest.mark.parametrize("keep", [1, 3])
def test_beside_summaries(memory: SleepMemory, keep: int) -> None:
    """A mistake: a summary takes the place of what the memory knows. Nothing breaks."""
    summary = SummarizationMiddleware(
        FakeListChatModel(responses=["a b"]), trigger=("messages", 4), keep=("messages", keep)
    )
    agent = agent_of(Actor(memory), summary, SleepMiddleware(memory, after=None), saver=InMemorySaver())
    for text in LONG[:6]:
        messages = invoke(agent, text)
        assert isinstance(messages[-1], AIMessage)
    with opened_at(memory, handle_in(agent)) as session:
        said = [text for role, text in told(session) if role == "user"]
        assert any(str(text).endswith("a b") for text in said)
        assert said[-1] == LONG[5]
        assert_whole(session)


def test_beside_an_edited_context(memory: SleepMemory) -> None:
    """The request says something else than the list: a branch that hears so, and is gone on with."""
    edit = ContextEditingMiddleware(edits=[ClearToolUsesEdit(trigger=1, keep=0, placeholder="gone")])
    sleepy = SleepMiddleware(memory, after="light")
    for thread, order in (("a", (sleepy, edit)), ("b", (edit, sleepy))):
        agent = agent_of(Actor(memory), *order, saver=InMemorySaver())
        invoke(agent, LOOK, thread)
        for text in LONG[:3]:
            messages = invoke(agent, text, thread)
        assert [one.type for one in messages] == ["ai"]
        with opened_at(memory, handle_in(agent, thread), sleepy.policy) as session:
            assert [text for role, text in told(session) if role == "user"] == [LOOK, *LONG[:3]]
            assert_whole(session)


def test_beside_a_limit_of_calls(memory: SleepMemory) -> None:
    limit = ModelCallLimitMiddleware(run_limit=1, exit_behavior="end")
    agent = agent_of(Actor(memory), limit, SleepMiddleware(memory), saver=InMemorySaver())
    messages = invoke(agent, LOOK)
    assert [one.type for one in messages][-1] == "ai"
    assert_unsplit(messages)
    messages = invoke(agent, FACTS[0])
    assert [one.type for one in messages] == ["ai"]
    with opened_at(memory, handle_in(agent)) as session:
        assert [text for role, text in told(session) if role in ("user", "tool")] == [LOOK, FOUND, FACTS[0]]


def test_beside_tries_of_the_model(memory: SleepMemory) -> None:
    """What a try has left in the log is not read again, and not part of what is gone on with."""
    failures = [RuntimeError("early"), RuntimeError("late")]

    class Flaky(AgentMiddleware[Any, Any, Any]):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            if len(failures) == 2:
                raise failures.pop()
            answer = handler(request)
            if failures:
                raise failures.pop()
            return answer

    retry = ModelRetryMiddleware(max_retries=3, initial_delay=0, jitter=False)
    for thread, order in (("a", lambda s: (retry, s, Flaky())), ("b", lambda s: (retry, Flaky(), s))):
        sleepy = SleepMiddleware(memory)
        agent = agent_of(Actor(memory), *order(sleepy), saver=InMemorySaver())
        failures[:] = []
        invoke(agent, LONG[0], thread)
        failures[:] = [RuntimeError("early"), RuntimeError("late")]
        messages = invoke(agent, LONG[1], thread)
        assert not failures
        assert [one.type for one in messages] == ["ai"]
        with (
            twin(memory, sleepy, f"twin {thread}") as plain,
            opened_at(memory, handle_in(agent, thread), sleepy.policy) as session,
        ):
            for text in LONG[:2]:
                hear(plain, memory, text)
                plain.sleep()
            assert told(session) == told(plain)
            assert_same(session, plain)


class Shift(BaseModel):
    """Who takes over."""

    who: str


@pytest.mark.parametrize("strategy", [ToolStrategy, ProviderStrategy])
def test_with_an_answer_of_a_given_form(memory: SleepMemory, strategy: Any) -> None:
    line: Any = ToolCall("Shift", {"who": "bob"}) if strategy is ToolStrategy else '{"who": "bob"}'
    model = Actor(memory, lines={LONG[0]: line, LONG[1]: line})
    agent = agent_of(model, SleepMiddleware(memory), tools=[], saver=InMemorySaver(), response_format=strategy(Shift))
    for text in LONG[:2]:
        found = agent.invoke({"messages": [HumanMessage(text)]}, config())
        assert found["structured_response"] == Shift(who="bob")
        assert [one.type for one in found["messages"]] in (["ai"], ["ai", "tool"])
    with opened_at(memory, handle_in(agent)) as session:
        assert [text for role, text in told(session) if role == "user"] == LONG[:2]
        assert len(session.history()) == 2


def test_a_tool_whose_result_is_the_answer(memory: SleepMemory) -> None:
    from langchain_core.tools import tool

    agent = agent_of(
        Actor(memory), SleepMiddleware(memory), tools=[tool(return_direct=True)(look_up)], saver=InMemorySaver()
    )
    assert [one.type for one in invoke(agent, LOOK)] == ["ai", "tool"]
    assert [one.type for one in invoke(agent, LONG[0])] == ["ai"]
    with opened_at(memory, handle_in(agent)) as session:
        assert [role for role, _ in told(session)] == ["user", "assistant", "tool", "user", "assistant"]


# A model behind an API


def calls(*persons: str, start: int = 0) -> AIMessage:
    return AIMessage(
        "",
        tool_calls=[
            {"name": "look_up", "args": {"person": person}, "id": f"call {start + number}", "type": "tool_call"}
            for number, person in enumerate(persons)
        ],
    )


def test_the_memory_listens_to_another_model(memory: SleepMemory, saver: Any) -> None:
    """Several calls a turn, which the memory's own format has not."""
    model = Scripted(script=[calls("bob", "erin"), AIMessage("fine"), calls("dave", start=2)])
    sleepy = SleepMiddleware(memory, trigger=("messages", 7), keep=("messages", 2), token_counter=len, passes=2)
    agent = agent_of(model, sleepy, saver=saver)
    lengths = []
    for text in [LOOK, LONG[0], LOOK, LONG[1], LONG[2]]:
        messages = invoke(agent, text)
        lengths.append(len(messages))
        assert_unsplit(messages)
        assert messages[0].type == "human"
    assert lengths[0] == 5, "not due"
    assert max(lengths) < 9
    for seen in model.seen:
        assert seen[0].type == "human"
        assert_unsplit(seen)
    with opened_at(memory, handle_in(agent)) as session:
        said = told(session)
        assert [text for role, text in said if role == "user"] == [LOOK, LONG[0], LOOK, LONG[1], LONG[2]]
        assert [text for role, text in said if role == "tool"] == [
            look_up(person) for person in ("bob", "erin", "dave")
        ]
        assert len(session.history()) >= 5
        assert_whole(session)


def test_a_list_of_another_model_stays_until_it_is_due(memory: SleepMemory) -> None:
    agent = agent_of(Scripted(), SleepMiddleware(memory, trigger=("messages", 99)), saver=InMemorySaver())
    for text in LONG[:4]:
        messages = invoke(agent, text)
    assert len(messages) == 8
    with opened_at(memory, handle_in(agent)) as session:
        assert len(session.history()) == 4, "it sleeps between tasks all the same"


async def test_another_model_awaited(memory: SleepMemory) -> None:
    handler = Heard()
    sleepy = SleepMiddleware(memory, trigger=("messages", 4), after=None)
    agent = agent_of(Scripted(), sleepy, saver=InMemorySaver())
    for text in LONG[:3]:
        found = await agent.ainvoke({"messages": [HumanMessage(text)]}, {**config(), "callbacks": [handler]})
    assert [one.type for one in found["messages"]] == ["human", "ai"]
    assert [name for name, _, _ in handler.events] == ["sleep_started", "sleep_finished"] * 2


@pytest.mark.parametrize("model", [Actor, Scripted])
def test_a_run_without_a_thread(memory: SleepMemory, model: Any) -> None:
    agent = agent_of(model() if model is Scripted else model(memory), SleepMiddleware(memory))
    with pytest.raises(InputError, match="thread_id"):
        agent.invoke({"messages": [HumanMessage(LONG[0])]})
    with pytest.raises(InputError, match="thread_id"):
        asyncio.run(agent.ainvoke({"messages": [HumanMessage(LONG[0])]}))
    assert names(memory) == []


def test_a_model_with_another_memory(memory: SleepMemory, opened: Open) -> None:
    agent = agent_of(ChatSleep(opened()), SleepMiddleware(memory), saver=InMemorySaver())
    with pytest.raises(SettingsError, match="different memories"):
        invoke(agent, LONG[0])


def test_a_sleep_that_fails(memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes through; nothing leaves the list, and the next sleep has all of it."""
    agent = agent_of(Actor(memory), SleepMiddleware(memory), saver=InMemorySaver())

    def failing(*args: Any, **options: Any) -> Any:
        raise SleepFailed("it gave NaN")

    with monkeypatch.context() as patch:
        patch.setattr(Backend, "consolidate", failing)
        with pytest.raises(SleepFailed, match="NaN"):
            invoke(agent, LONG[0])
    assert len(agent.get_state(config()).values["messages"]) == 2
    assert [one.type for one in invoke(agent, LONG[1])] == ["ai"]
    with opened_at(memory, handle_in(agent)) as session:
        assert [text for role, text in told(session) if role == "user"] == LONG[:2]


# Several at once


def test_whose_thread_it_is(memory: SleepMemory) -> None:
    agent = agent_of(Actor(memory), SleepMiddleware(memory, user="ada", tenant="acme"))
    agent.invoke({"messages": [HumanMessage(LONG[0])]}, config())
    agent.invoke({"messages": [HumanMessage(LONG[0])]}, config(user_id="bob"))
    assert (names(memory, user="ada", tenant="acme"), names(memory, user="bob", tenant="acme")) != ([], [])


def test_threads_side_by_side(memory: SleepMemory) -> None:
    saver, sleepy = InMemorySaver(), SleepMiddleware(memory, trigger=("messages", 3))
    agent = agent_of(Actor(memory), sleepy, saver=saver)

    def talk(number: int) -> list[str]:
        return [invoke(agent, text, f"thread {number}")[-1].text for text in LONG[number : number + 3]]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(talk, range(8)))
    assert len(names(memory)) == 8
    for number in (0, 7):
        with twin(memory, sleepy, f"twin {number}") as plain:
            for text, given in zip(LONG[number : number + 3], answers[number], strict=True):
                assert hear(plain, memory, text) == given
                plain.sleep()
            with opened_at(memory, handle_in(agent, f"thread {number}"), sleepy.policy) as session:
                assert_same(session, plain)


def test_the_same_thread_twice_at_once(memory: SleepMemory) -> None:
    """Both are answered; what the state then names has heard what its list says."""
    agent = agent_of(Actor(memory), SleepMiddleware(memory), saver=InMemorySaver())
    invoke(agent, LONG[0])
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda text: invoke(agent, text), LONG[1:3]))
    assert all(isinstance(messages[-1], AIMessage) for messages in both)
    messages = invoke(agent, LONG[3])
    assert [one.type for one in messages if not isinstance(one, ToolMessage)][-1] == "ai"
    with opened_at(memory, handle_in(agent)) as session:
        said = [text for role, text in told(session) if role == "user"]
        assert said[0] == LONG[0]
        assert said[-1] == LONG[3]
        assert len(said) == len(set(said))
        assert_whole(session)
