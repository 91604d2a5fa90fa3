"""Memory as tools: by themselves, in an agent on another model, and in an agent whose model sleeps."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.prebuilt import ToolNode
from tests.talk import FACTS, SCOPE, Open, Says, assert_whole, config, log_of, names, said_in

from agentsleep.archive import SessionLock
from agentsleep.chat import ToolCall
from agentsleep.errors import SettingsError
from agentsleep.memory import SleepMemory
from agentsleep.policy import SleepPolicy
from langchain_agentsleep import ChatSleep
from langchain_agentsleep.branches import handle_of, read
from langchain_agentsleep.messages import listed
from langchain_agentsleep.middleware import SleepMiddleware, SleepState
from langchain_agentsleep.threads import threads_of
from langchain_agentsleep.tools import NO_MEMORY, memory_tools

SECRET = "the door code is 4711"
NAMES = ["recall", "search_transcript", "list_memories", "forget"]


@pytest.fixture
def memory(opened: Open) -> SleepMemory:
    """Its window has room for tools' results, which are a token a letter."""
    return opened(window=2000)


def tools_of(memory: SleepMemory, **options: Any) -> dict[str, BaseTool]:
    return {one.name: one for one in memory_tools(memory, **{"max_tokens": 8, **options})}


def hear(memory: SleepMemory, *messages: BaseMessage, thread: str = "t", user: str = "default") -> None:
    """Has a thread's session hear messages, as the middleware would."""
    with memory.session(thread, user=user) as session:
        read(session, listed(messages)[1], answered=False)


def calling(name: str, id: str = "1", **arguments: Any) -> dict[str, Any]:
    return {"name": name, "args": arguments, "id": id, "type": "tool_call"}


class Scripted(GenericFakeChatModel):
    """A model behind an API that says what it is told to; it keeps what it was given to read."""

    seen: list[list[BaseMessage]] = []

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *rest: Any, **more: Any) -> Any:
        self.seen.append(list(messages))
        return super()._generate(messages, *rest, **more)


def scripted(*answers: AIMessage | Callable[[], AIMessage]) -> Scripted:
    def said() -> Iterable[AIMessage]:
        for answer in answers:
            yield answer if isinstance(answer, AIMessage) else answer()

    return Scripted(messages=iter(said()), seen=[])


class Script(AgentMiddleware):
    """Makes a model that sleeps write these turns."""

    def __init__(self, memory: SleepMemory, turns: Sequence[str | ToolCall]) -> None:
        super().__init__()
        chat = memory.chat
        self._turns = iter(
            [(chat.message("assistant", one) if isinstance(one, str) else chat.call(one))[1:] for one in turns]
        )

    def _scripted(self, request: Any) -> Any:
        ids = next(self._turns)
        more = {"logits_processor": [Says(ids)], "max_tokens": len(ids)}
        return request.override(model_settings={**request.model_settings, **more})

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return handler(self._scripted(request))

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return await handler(self._scripted(request))


def results(messages: Sequence[BaseMessage]) -> list[ToolMessage]:
    return [one for one in messages if isinstance(one, ToolMessage)]


# What a model reads of them


def test_a_model_reads_names_descriptions_and_typed_arguments(memory: SleepMemory) -> None:
    tools = tools_of(memory)
    assert list(tools) == NAMES
    assert tools["recall"].args.keys() == {"question"}
    assert tools["search_transcript"].args["limit"]["type"] == "integer"
    assert tools["forget"].args["messages"]["items"] == {"type": "integer"}
    assert all(60 < len(one.description) < 420 and "\n" not in one.description for one in tools.values())


def test_some_of_them(memory: SleepMemory) -> None:
    assert [one.name for one in memory_tools(memory, include=["recall"])] == ["recall"]
    for wrong in (["recal"], "recall"):
        with pytest.raises(SettingsError, match="recall, search_transcript, list_memories, forget"):
            memory_tools(memory, include=wrong)


# Outside of an agent


def test_recall_answers_from_the_state_and_quotes_the_log(memory: SleepMemory) -> None:
    hear(memory, HumanMessage(FACTS[0]), HumanMessage("something else"))
    before = log_of(memory)
    told = tools_of(memory)["recall"].invoke({"question": "who comes after alice ?"}, config())
    assert told.startswith("The memory answers: ")
    assert f"\n[0] user: {FACTS[0]}" in told
    assert "something else" not in told
    assert log_of(memory) == before
    with memory.session("t") as session:
        expected = session.ask("who comes after alice ?", remember=False, max_new_tokens=8)
        assert f"The memory answers: {expected.text.strip() or '(nothing)'}" in told


def test_recall_quotes_neither_its_question_nor_what_these_tools_said(memory: SleepMemory) -> None:
    question = "who comes after alice ?"
    tools = tools_of(memory)
    hear(memory, HumanMessage(FACTS[0]), HumanMessage(question))
    for name, given in (("recall", {"question": question}), ("search_transcript", {"query": "alice"})):
        told = tools[name].invoke(given, config())
        hear(memory, AIMessage("", tool_calls=[calling(name)]), ToolMessage(told, tool_call_id="1"))
    told = tools["recall"].invoke({"question": question}, config())
    assert re.findall(r"^\[\d+\].*", told, re.M) == [f"[0] user: {FACTS[0]}"]


def test_a_long_message_is_cut(memory: SleepMemory) -> None:
    hear(memory, HumanMessage("alice " * 90))
    told = tools_of(memory)["search_transcript"].invoke({"query": "alice"}, config())
    assert told.endswith("…")
    assert len(told) < 500


def test_search_takes_all_words_else_some(memory: SleepMemory) -> None:
    hear(memory, *map(HumanMessage, FACTS[:4]))
    search = tools_of(memory)["search_transcript"]
    words = FACTS[1].split()
    exact = search.invoke({"query": f"{words[0]} {words[-2]}"}, config())
    assert exact == f"Messages found, the best first:\n[1] user: {FACTS[1]}"
    some = search.invoke({"query": f"{words[0]} submarine"}, config())
    assert "(with some of the words)" in some
    assert f"[1] user: {FACTS[1]}" in some
    assert "No message" in search.invoke({"query": "submarine"}, config())
    assert len(search.invoke({"query": "hands", "limit": 2}, config()).splitlines()) == 3


def test_memories_are_listed_newest_first(memory: SleepMemory) -> None:
    with memory.session("t") as session:
        for fact in FACTS[:3]:
            session.add("user", fact)
            session.sleep()
        session.tag("kept", session.history()[1])
        ids = [one.id[:8] for one in session.history()]
    told = tools_of(memory)["list_memories"].invoke({}, config())
    lines = told.splitlines()
    assert lines[0] == "18 tokens were heard in 6 log entries; 3 sleeps."
    assert [line[:8] for line in lines[1:]] == ids[::-1]
    assert "tag: kept" in lines[2]
    assert "6 tokens slept on (light), why: asked" in lines[1]
    assert len(tools_of(memory)["list_memories"].invoke({"limit": 1}, config()).splitlines()) == 2


def test_forget_takes_it_out_of_log_and_states(memory: SleepMemory) -> None:
    hear(memory, *map(HumanMessage, [FACTS[0], SECRET, FACTS[1]]))
    with memory.session("t") as session:
        session.sleep()
    told = tools_of(memory)["forget"].invoke({"messages": [1]}, config())
    assert "Forgotten: 1 messages, numbers 1 among them, and 1 states" in told
    assert "read again without them: t." in told
    assert SECRET not in told
    assert [text for _, text in said_in(memory)] == [FACTS[0], FACTS[1]]
    with memory.session("t") as session:
        assert_whole(session)


def test_what_repeats_it_is_told_by_its_new_number(memory: SleepMemory) -> None:
    hear(memory, *map(HumanMessage, [FACTS[0], SECRET, FACTS[1], f"as I said, {SECRET.upper()}"]))
    hear(memory, HumanMessage(f"and {SECRET}"), thread="other")
    told = tools_of(memory)["forget"].invoke({"messages": [1]}, config())
    assert "under their new numbers: [2] user." in told
    assert "Still repeated in thread 'other': 1 messages." in told
    assert said_in(memory)[2][1] == f"as I said, {SECRET.upper()}"
    assert SECRET not in told.lower()


def test_cascade_takes_the_repeats_too_in_every_thread(memory: SleepMemory) -> None:
    hear(memory, *map(HumanMessage, [SECRET, FACTS[1], f"as I said, {SECRET}"]))
    hear(memory, HumanMessage(FACTS[2]), HumanMessage(f"and {SECRET}"), thread="other")
    told = tools_of(memory)["forget"].invoke({"messages": [0], "cascade": True}, config())
    assert "Forgotten: 3 messages" in told
    assert "repeated" not in told
    assert said_in(memory) == [("user", FACTS[1])]
    assert said_in(memory, "other") == [("user", FACTS[2])]


def test_a_quote_in_a_tools_result_is_a_repeat_also_where_it_was_cut(memory: SleepMemory) -> None:
    long = f"{SECRET}, " + "and so on " * 60
    tools = tools_of(memory)
    hear(memory, HumanMessage(long))
    found = tools["search_transcript"].invoke({"query": "code"}, config())
    assert found.endswith("…")
    hear(
        memory,
        AIMessage("", tool_calls=[calling("search_transcript", query="x")]),
        ToolMessage(found, tool_call_id="1"),
    )
    hear(memory, HumanMessage(FACTS[0]))
    told = tools["forget"].invoke({"messages": [0]}, config())
    assert "new numbers: [1] tool" in told
    told = tools["forget"].invoke({"messages": [1]}, config())
    assert said_in(memory) == [("user", FACTS[0])]


def test_cascade_leaves_no_half_of_a_call_and_its_result(memory: SleepMemory) -> None:
    tools = tools_of(memory)
    hear(memory, HumanMessage(SECRET), HumanMessage(FACTS[0]))
    found = tools["search_transcript"].invoke({"query": "code"}, config())
    hear(
        memory,
        AIMessage("", tool_calls=[calling("search_transcript", query="x")]),
        ToolMessage(found, tool_call_id="1"),
    )
    hear(memory, AIMessage("fine"))
    tools["forget"].invoke({"messages": [0], "cascade": True}, config())
    assert said_in(memory) == [("user", FACTS[0]), ("assistant", "fine")]
    with memory.session("t") as session:
        assert_whole(session)


@pytest.mark.parametrize("chosen", [1, 2, 3, 4])
def test_calls_and_results_go_together(memory: SleepMemory, chosen: int) -> None:
    calls = [calling("add", "1", a=1), calling("add", "2", a=2)]
    hear(
        memory,
        HumanMessage(FACTS[0]),
        AIMessage("", tool_calls=calls, id="ai"),
        ToolMessage("one", tool_call_id="1"),
        ToolMessage("two", tool_call_id="2"),
        HumanMessage(FACTS[1]),
    )
    assert "numbers 1, 2, 3, 4 among" in tools_of(memory)["forget"].invoke({"messages": [chosen]}, config())
    assert said_in(memory) == [("user", FACTS[0]), ("user", FACTS[1])]


def test_a_turn_that_a_sleep_fell_into_goes_whole_and_others_stay_whole(opened: Open) -> None:
    memory = opened(window=32)
    with memory.session("t") as session:
        for text in (SECRET, FACTS[0]):
            session.add("user", text)
            session.add("assistant", "so be it, we shall see what comes of it, one day", calls=[])
            session.add("assistant", "", calls=[ToolCall("note", {"what": "nothing that matters much"})])
            session.add("tool", "done")
    events = log_of(memory)
    assert any(event.data.get("open") for event in events)
    tools_of(memory)["forget"].invoke({"messages": [0], "cascade": True}, config())
    said = said_in(memory)
    assert ("user", SECRET) not in said
    assert [role for role, _ in said] == ["assistant", "assistant", "tool", "user", "assistant", "assistant", "tool"]


# What goes wrong


def failing(one: BaseTool, given: dict[str, Any], *, thread: str | None = "t", **more: str) -> str:
    """What a model reads of a call that fails."""
    call = {"name": one.name, "args": given, "id": "1", "type": "tool_call"}
    told = one.invoke(call, config(thread, **more) if thread else {})
    assert isinstance(told, ToolMessage)
    assert told.status == "error"
    assert len(told.text) <= 500
    return told.text


GIVEN: dict[str, dict[str, Any]] = {
    "recall": {"question": "who ?"},
    "search_transcript": {"query": "who"},
    "list_memories": {},
    "forget": {"messages": [0]},
}


@pytest.mark.parametrize("name", NAMES)
def test_without_a_thread_there_is_no_memory(memory: SleepMemory, name: str) -> None:
    assert "SettingsError: this run names no thread" in failing(tools_of(memory)[name], GIVEN[name], thread=None)


@pytest.mark.parametrize("name", NAMES)
def test_a_thread_that_was_never_heard_has_no_memory(memory: SleepMemory, name: str) -> None:
    assert tools_of(memory)[name].invoke(GIVEN[name], config()) == NO_MEMORY
    assert names(memory) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_thread_of_another_user_is_none(memory: SleepMemory, name: str) -> None:
    hear(memory, HumanMessage(SECRET), user="bob")
    tools = tools_of(memory, user="alice")
    assert tools[name].invoke(GIVEN[name], config()) == NO_MEMORY
    assert tools[name].invoke(GIVEN[name], config(user_id="carol")) == NO_MEMORY
    assert tools[name].invoke(GIVEN[name], config(user_id="bob")) != NO_MEMORY


@pytest.mark.parametrize("messages", [[5], [0, 5], [1], [-1]])
def test_numbers_of_no_message_are_refused_and_nothing_goes(memory: SleepMemory, messages: list[int]) -> None:
    with memory.session("t") as session:
        session.add("user", FACTS[0])
        session.sleep()  # event 1
    wrong = next(one for one in messages if one)
    assert f"InputError: this thread has no message {wrong};" in failing(
        tools_of(memory)["forget"], {"messages": messages}
    )
    assert said_in(memory) == [("user", FACTS[0])]


def test_cascade_is_refused_for_a_text_that_many_hold(memory: SleepMemory) -> None:
    hear(memory, HumanMessage("ok"), HumanMessage("that is not ok"))
    assert "'ok' is so short" in failing(tools_of(memory)["forget"], {"messages": [0], "cascade": True})
    assert len(said_in(memory)) == 2


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("recall", {"question": "  "}, "EmptyMessage: a user message has no text"),
        ("search_transcript", {"query": "  "}, "InputError: the query is blank"),
        ("search_transcript", {"query": "x", "limit": 0}, "InputError: limit: Input should be greater"),
        ("recall", {}, "InputError: question: Field required"),
        ("forget", {"messages": []}, "InputError: messages: List should have at least 1 item"),
        ("forget", {"messages": ["x"]}, "InputError: messages.0: Input should be a valid integer"),
    ],
)
def test_wrong_arguments(memory: SleepMemory, name: str, given: dict[str, Any], said: str) -> None:
    hear(memory, HumanMessage(FACTS[0]))
    assert said in failing(tools_of(memory)[name], given)


def test_a_busy_thread_can_be_searched_but_not_asked(memory: SleepMemory) -> None:
    hear(memory, HumanMessage(FACTS[0]))
    tools = tools_of(memory, timeout=0.0)
    archive = memory.archive.user("default", "default")
    record = archive.find("t")
    assert record is not None
    with SessionLock(archive, record.id):
        for name in ("recall", "forget"):
            assert failing(tools[name], GIVEN[name]).startswith("SessionBusy: ")
        assert FACTS[0] in tools["search_transcript"].invoke({"query": "hands"}, config())
        assert "heard" in tools["list_memories"].invoke({}, config())
    with threads_of(memory).family(SCOPE).use(None, 0.0):
        assert failing(tools["recall"], GIVEN["recall"]).startswith("SessionBusy: ")
    assert "The memory answers" in tools["recall"].invoke(GIVEN["recall"], config())


# The event loop


async def test_the_event_loop_goes_on_meanwhile(memory: SleepMemory) -> None:
    hear(memory, HumanMessage(FACTS[0]))
    tools = tools_of(memory)
    entered, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with threads_of(memory).family(SCOPE).use(None, 0.0):
            entered.set()
            let_go.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait(30)
    waiting = asyncio.create_task(tools["recall"].ainvoke({"question": "who ?"}, config()))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    let_go.set()
    assert (await waiting).startswith("The memory answers: ")
    holder.join()


@pytest.mark.parametrize("name", NAMES)
async def test_awaited_they_answer_alike(memory: SleepMemory, name: str) -> None:
    tools = tools_of(memory)
    assert await tools[name].ainvoke(GIVEN[name], config()) == NO_MEMORY
    told = await tools[name].ainvoke({**calling(name, **GIVEN[name]), "type": "tool_call"}, {})
    assert told.status == "error"


# In an agent on another model


def listening(memory: SleepMemory, model: Scripted, **options: Any) -> Any:
    """An agent on an API's model, whose memory listens."""
    return create_agent(
        model,
        list(tools_of(memory).values()),
        middleware=[SleepMiddleware(memory, after=None, remove=False, **options)],
        checkpointer=InMemorySaver(),
    )


def assert_paired(messages: Sequence[BaseMessage]) -> None:
    """Every call has its result, and every result its call."""
    calls = [call["id"] for one in messages if isinstance(one, AIMessage) for call in one.tool_calls]
    assert calls == [one.tool_call_id for one in results(messages)]


def test_an_agent_asks_searches_and_lists(memory: SleepMemory) -> None:
    model = scripted(
        AIMessage("noted"),
        AIMessage("", tool_calls=[calling("recall", question="who comes after alice ?")]),
        AIMessage("", tool_calls=[calling("search_transcript", "2", query="code"), calling("list_memories", "3")]),
        AIMessage("done"),
    )
    agent = listening(memory, model)
    agent.invoke({"messages": [HumanMessage(f"{FACTS[0]} {SECRET}")]}, config())
    told = results(agent.invoke({"messages": [HumanMessage("so ?")]}, config())["messages"])
    assert [one.status for one in told] == ["success"] * 3
    assert told[0].text.startswith("The memory answers: ")
    assert f"[0] user: {FACTS[0]} {SECRET}" in told[1].text
    assert "were heard" in told[2].text


@pytest.mark.parametrize("awaited", [False, True])
async def test_what_an_agent_forgets_leaves_its_list_too(memory: SleepMemory, awaited: bool) -> None:
    model = scripted(
        AIMessage("noted"),
        AIMessage("", tool_calls=[calling("forget", messages=[0])]),
        AIMessage("gone"),
        AIMessage("no"),
    )
    agent = listening(memory, model)
    first: dict[str, Any] = {"messages": [HumanMessage(SECRET, id="secret")]}
    then: dict[str, Any] = {"messages": [HumanMessage("forget it")]}
    if awaited:
        await agent.ainvoke(first, config())
        state = await agent.ainvoke(then, config())
    else:
        agent.invoke(first, config())
        state = agent.invoke(then, config())
    assert [one.text for one in state["messages"] if not isinstance(one, ToolMessage)] == [
        "noted",
        "forget it",
        "",
        "gone",
    ]
    assert_paired(state["messages"])
    assert "Removed from view: 1 messages" in results(state["messages"])[0].text
    assert SECRET not in str(model.seen[-1])
    # The memory goes on from there, on the same line, and never hears it again.
    agent.invoke({"messages": [HumanMessage("any codes ?")]}, config())
    assert names(memory) == ["t"]
    texts = [text for _, text in said_in(memory)]
    assert SECRET not in str(texts)
    assert texts[0] == "noted"
    assert texts[-1] == "no"


def test_a_call_leaves_the_list_with_its_result(memory: SleepMemory) -> None:
    @tool
    def open_door() -> str:
        """Opens it."""
        return SECRET

    model = scripted(
        AIMessage("", tool_calls=[calling("open_door", "a")]),
        AIMessage("it is open"),
        AIMessage("", tool_calls=[calling("forget", "b", messages=[2])]),
        AIMessage("gone"),
    )
    agent = create_agent(
        model,
        [open_door, *tools_of(memory).values()],
        middleware=[SleepMiddleware(memory, after=None, remove=False)],
        checkpointer=InMemorySaver(),
    )
    agent.invoke({"messages": [HumanMessage("open it")]}, config())
    state = agent.invoke({"messages": [HumanMessage("forget that")]}, config())
    texts = [one.text for one in state["messages"] if not isinstance(one, ToolMessage)]
    assert texts == ["open it", "it is open", "forget that", "", "gone"]
    assert_paired(state["messages"])
    assert "Removed from view: 2 messages" in results(state["messages"])[0].text
    assert names(memory) == ["t"]


def test_the_call_that_is_being_answered_stays(memory: SleepMemory) -> None:
    model = scripted(AIMessage("", tool_calls=[calling("forget", messages=[1])]), AIMessage("well"))
    state = listening(memory, model).invoke({"messages": [HumanMessage(SECRET)]}, config())
    (told,) = results(state["messages"])
    assert told.status == "error"
    assert "message 1 makes this very call" in told.text
    assert len(state["messages"]) == 4


def test_of_several_calls_at_once_the_first_one_forgets(memory: SleepMemory) -> None:
    model = scripted(
        AIMessage("noted"),
        AIMessage("", tool_calls=[calling("forget", "1", messages=[0]), calling("forget", "2", messages=[0])]),
        AIMessage("well"),
    )
    agent = listening(memory, model)
    agent.invoke({"messages": [HumanMessage(SECRET)]}, config())
    state = agent.invoke({"messages": [HumanMessage("forget it")]}, config())
    first, second = results(state["messages"])
    assert first.status == "success"
    assert second.status == "error"
    assert "several calls of forget at once" in second.text
    assert [text for role, text in said_in(memory)][:2] == ["noted", "forget it"]
    assert_paired(state["messages"])


def test_cascade_reaches_what_the_agent_has_in_view(memory: SleepMemory) -> None:
    model = scripted(
        AIMessage(f"noted: {SECRET}"),
        AIMessage("", tool_calls=[calling("search_transcript", "s", query="code")]),
        AIMessage("", tool_calls=[calling("forget", "f", messages=[0], cascade=True)]),
        AIMessage("gone"),
    )
    agent = listening(memory, model)
    agent.invoke({"messages": [HumanMessage(SECRET)]}, config())
    state = agent.invoke({"messages": [HumanMessage("forget that")]}, config())
    assert [one.text for one in state["messages"] if not isinstance(one, ToolMessage)] == ["forget that", "", "gone"]
    assert_paired(state["messages"])
    assert SECRET not in str(log_of(memory)) + str(state)
    assert names(memory) == ["t"]


@pytest.mark.parametrize("cascade", [True, False])
def test_a_call_that_repeats_what_it_forgets_stays_and_is_told_of(memory: SleepMemory, cascade: bool) -> None:
    asked = calling("forget", messages=[0], cascade=cascade)
    model = scripted(
        AIMessage("noted"),
        AIMessage(f"forgetting that {SECRET}", tool_calls=[asked], id="calling"),
        AIMessage("gone"),
    )
    agent = listening(memory, model)
    agent.invoke({"messages": [HumanMessage(SECRET)]}, config())
    state = agent.invoke({"messages": [HumanMessage("forget that")]}, config())
    assert [one.text for one in state["messages"]][:3] == ["noted", "forget that", f"forgetting that {SECRET}"]
    assert_paired(state["messages"])
    assert "Still repeated in view besides: 1 messages." in results(state["messages"])[0].text


def test_a_memory_that_was_fed_by_hand_knows_no_ids(memory: SleepMemory) -> None:
    with memory.session("t") as session:
        session.add("user", SECRET)
        session.add("user", FACTS[0])
    model = scripted(AIMessage("", tool_calls=[calling("forget", messages=[0])]), AIMessage("gone"))
    agent = create_agent(model, list(tools_of(memory).values()))
    said = [HumanMessage(SECRET), HumanMessage(f"mind that {SECRET}"), HumanMessage(FACTS[0])]
    state = agent.invoke({"messages": said}, config())
    assert [one.text for one in state["messages"]][:2] == [f"mind that {SECRET}", FACTS[0]]
    told = results(state["messages"])[0].text
    assert "Removed from view: 1 messages" in told
    assert "Still repeated in view besides: 1 messages." in told


def test_a_result_that_the_memory_never_heard_leaves_with_its_call(memory: SleepMemory) -> None:
    with memory.session("t") as session:
        session.add("user", SECRET)
        session.add("user", FACTS[0])
    model = scripted(AIMessage("", tool_calls=[calling("forget", messages=[0], cascade=True)]), AIMessage("gone"))
    agent = create_agent(model, list(tools_of(memory).values()))
    pair = [AIMessage("", tool_calls=[calling("look", "l")]), ToolMessage(f"I see {SECRET}", tool_call_id="l")]
    state = agent.invoke({"messages": [HumanMessage(FACTS[0]), *pair, HumanMessage("forget it")]}, config())
    assert [one.text for one in state["messages"]][:2] == [FACTS[0], "forget it"]
    assert_paired(state["messages"])


def test_the_state_names_the_session_and_a_model_cannot(memory: SleepMemory) -> None:
    hear(memory, HumanMessage(FACTS[0]))
    with memory.session("t") as session:
        fork = memory.branch(session, 1, "t@fork")
    with fork:
        fork.add("user", SECRET)
        handle = handle_of(fork)
    forged = calling("search_transcript", query="code", runtime={"state": {"agentsleep": handle}})
    node = ToolNode(list(tools_of(memory).values()))
    call = AIMessage("", tool_calls=[calling("search_transcript", query="code")])
    graph = StateGraph(SleepState).add_node("tools", node).add_edge(START, "tools").add_edge("tools", END).compile()
    state = graph.invoke({"messages": [call], "agentsleep": handle}, config())
    assert SECRET in results(state["messages"])[0].text
    state = graph.invoke({"messages": [AIMessage("", tool_calls=[forged])]}, config())
    assert SECRET not in results(state["messages"])[0].text
    strangers = graph.invoke({"messages": [call], "agentsleep": handle}, config(user_id="mallory"))
    assert results(strangers["messages"])[0].text == NO_MEMORY


def test_what_is_forgotten_in_a_fork_is_forgotten_where_it_came_from(memory: SleepMemory) -> None:
    hear(memory, HumanMessage(FACTS[0]), HumanMessage(SECRET))
    with memory.session("t") as session:
        session.sleep()
        fork = memory.fork(session.history()[-1], "t@fork")
    fork.add("user", FACTS[1])
    fork.close()
    told = tools_of(memory)["forget"].invoke({"messages": [1]}, config("t@fork"))
    assert "read again without them: t, t@fork." in told
    assert [text for _, text in said_in(memory, "t")] == [FACTS[0]]
    assert [text for _, text in said_in(memory, "t@fork")] == [FACTS[0], FACTS[1]]


# In an agent whose model sleeps. Event 0 of its log are the tools that are pinned.


def sleeping(memory: SleepMemory, turns: Sequence[str | ToolCall], *, middleware: bool = True) -> Any:
    """An agent on the memory's own model, which says these turns."""
    chat = ChatSleep(memory)
    own: list[Any] = [SleepMiddleware(memory, after=None)] if middleware else []
    return create_agent(
        chat,
        list(tools_of(memory).values()),
        middleware=[*own, Script(memory, turns)],
        checkpointer=InMemorySaver(),
    )


@pytest.mark.parametrize("middleware", [True, False])
def test_a_model_that_sleeps_asks_itself(memory: SleepMemory, middleware: bool) -> None:
    agent = sleeping(
        memory,
        [
            "noted",
            ToolCall("recall", {"question": "who comes after alice ?"}),
            ToolCall("search_transcript", {"query": "hands"}),
            "bob",
        ],
        middleware=middleware,
    )
    agent.invoke({"messages": [HumanMessage(FACTS[0])]}, config())
    state = agent.invoke({"messages": [HumanMessage("well ?")]}, config())
    first, second = results(state["messages"])
    assert first.status == "success"
    assert f"[1] user: {FACTS[0]}" in first.text
    assert second.text == f"Messages found, the best first:\n[1] user: {FACTS[0]}"
    assert [role for role, _ in said_in(memory)] == ["user", "assistant", "user"] + ["assistant", "tool"] * 2 + [
        "assistant"
    ]
    assert names(memory) == ["t"]


@pytest.mark.parametrize("middleware", [True, False])
async def test_a_model_that_sleeps_forgets(memory: SleepMemory, middleware: bool) -> None:
    agent = sleeping(memory, ["noted", ToolCall("forget", {"messages": [1]}), "gone", "no"], middleware=middleware)
    await agent.ainvoke({"messages": [HumanMessage(SECRET)]}, config())
    state = await agent.ainvoke({"messages": [HumanMessage("forget it")]}, config())
    assert [one.text for one in state["messages"] if not isinstance(one, ToolMessage)] == [
        "noted",
        "forget it",
        "",
        "gone",
    ]
    assert results(state["messages"])[0].status == "success"
    await agent.ainvoke({"messages": [HumanMessage("any codes ?")]}, config())
    assert names(memory) == ["t"]
    said = said_in(memory)
    assert SECRET not in str(said)
    assert [text for role, text in said if role == "user"] == ["forget it", "any codes ?"]
    with memory.session("t", tools=None) as session:
        assert_whole(session)


def test_a_model_that_sleeps_forgets_what_has_left_its_list(opened: Open) -> None:
    memory = opened(SleepPolicy(trigger=("tokens", 20), keep=None), window=2000)
    agent = sleeping(memory, ["noted", "fine", ToolCall("forget", {"messages": [1]}), "gone"])
    agent.invoke({"messages": [HumanMessage(SECRET)]}, config())
    state = agent.invoke({"messages": [HumanMessage(FACTS[0])]}, config())
    assert SECRET not in str(state["messages"])
    agent.invoke({"messages": [HumanMessage("forget it")]}, config())
    assert any(role == "tool" and str(text).startswith("Forgotten: 1 messages") for role, text in said_in(memory))
    assert SECRET not in str(said_in(memory))
    assert names(memory) == ["t"]
