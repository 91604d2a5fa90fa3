"""Memory as tools: an agent asks what its memory knows, searches what was said, lists its sleeps, and forgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from langchain_core.messages import BaseMessage, RemoveMessage, ToolMessage
from langchain_core.tools import BaseTool, StructuredTool, ToolException
from langgraph.types import Command
from pydantic import BaseModel, Field

from agentsleep.archive import Hit, SessionRecord, UserArchive
from agentsleep.errors import AgentsleepError, InputError, SessionNotFound, SettingsError
from agentsleep.memory import AsyncSleepMemory, SleepMemory
from langchain_agentsleep.caller import Caller, Runtime, caller_of
from langchain_agentsleep.erasing import erase, leaving, quote, report
from langchain_agentsleep.families import Family
from langchain_agentsleep.grammar import forbidden_calls
from langchain_agentsleep.threads import threads_of

NO_MEMORY = "This thread has no memory yet: nothing was said in it that the memory has heard."
ANSWERED, FOUND = "The memory answers: ", "Messages found, the best first:"
_OWN = (ANSWERED, FOUND)  # results that quote messages begin so
_MOST = 500  # characters of an error that a model reads


class Question(BaseModel):
    """Of recall."""

    question: str = Field(description="A question in words, complete in itself.")


class Query(BaseModel):
    """Of search_transcript."""

    query: str = Field(description="Words to look for.")
    limit: int = Field(5, ge=1, le=50, description="Most messages to return.")


class Newest(BaseModel):
    """Of list_memories."""

    limit: int = Field(20, ge=1, le=20, description="Most memories to return.")


class Chosen(BaseModel):
    """Of forget."""

    messages: list[int] = Field(
        min_length=1, description="Numbers of messages, as search_transcript and recall show them in brackets."
    )
    cascade: bool = Field(
        False, description="Whether later messages that contain the text of a removed one are removed too."
    )


class Tools:
    """What the tools do, see :func:`memory_tools`."""

    def __init__(self, memory: SleepMemory, user: str, tenant: str, timeout: float, max_tokens: int) -> None:
        self._memory, self._user, self._tenant = memory, user, tenant
        self._timeout, self._max_tokens = timeout, max_tokens
        self._awaited = AsyncSleepMemory(memory)

    def recall(self, caller: Caller, question: str) -> str:
        """Ask your long-term memory of this conversation, also about what is no longer in view. It answers from what it
        learned while it slept and may be wrong: messages that support the answer are quoted with their numbers."""
        with self._family(caller).use(caller.handle, self._timeout) as session:
            if session is None or not session.tokens:
                return NO_MEMORY
            answer = session.ask(
                question, remember=False, max_new_tokens=self._max_tokens, logits_processor=self._in_words()
            )
            asked = " ".join(question.split())
            hits = _evidence(session.archive, session.id, answer.sources)
            sources = [hit for hit in hits if " ".join(hit.text.split()) != asked]
        text = answer.text.strip() or "(nothing)"
        cut = "" if answer.finished else f" (cut off at {answer.tokens} tokens)"
        said = "Messages that share words with it:" if sources else "No message shares words with it; check elsewhere."
        return "\n".join([f"{ANSWERED}{text}{cut}", said, *map(_line, sources)])

    def search_transcript(self, caller: Caller, query: str, limit: int) -> str:
        """Search all that was said in this conversation, word for word, also what is no longer in view. Returns
        messages with their numbers."""
        archive, record = self._record(caller)
        if record is None:
            return NO_MEMORY
        thread, most, note = record.scope.thread, 2 * limit + 10, ""
        hits = _evidence(archive, record.id, archive.search(query, thread=thread, limit=most))
        if not hits:
            found = archive.search(query, thread=thread, limit=most, any_word=True)
            hits = _evidence(archive, record.id, found)
            note = " (with some of the words)"
        if not hits:
            return f"No message of this conversation has any of the words of {quote(query)!r}."
        return "\n".join([FOUND + note, *map(_line, hits[:limit])])

    def list_memories(self, caller: Caller, limit: int) -> str:
        """List the sleeps in which your memory of this conversation was formed, the newest first: when, how much was
        slept on, and why."""
        archive, record = self._record(caller)
        if record is None:
            return NO_MEMORY
        snapshots = archive.snapshots(record.id)
        lines = [f"{record.tokens} tokens were heard in {record.events} log entries; {len(snapshots)} sleeps."]
        for one in reversed(snapshots[-limit:]):
            told = [
                f"{one.id[:8]} at {one.created:%Y-%m-%d %H:%M:%S} UTC",
                f"{one.metrics.get('tokens', '?')} tokens slept on ({one.mode})",
                f"why: {one.trigger}",
                *([f"tag: {one.tag}"] if one.tag else []),
                *(["state pruned"] if one.status == "pruned" else []),
            ]
            lines.append(", ".join(told))
        return "\n".join(lines)

    def forget(self, caller: Caller, messages: list[int], cascade: bool) -> str | Command[Any]:
        """Remove messages of this conversation for good, from your memory and from view, by their numbers. A tool call
        goes together with its result. Tells what still repeats them. Other messages get new numbers by it: give all
        numbers in one call, and search again before the next."""
        calling = caller.calling
        if not caller.first:
            raise InputError("several calls of forget at once: the first changes the numbers; search again first")
        with self._family(caller).use(caller.handle, self._timeout) as session:
            if session is None:
                return NO_MEMORY
            id_ = calling.id if calling is not None else None
            erased = erase(self._memory, session, messages, cascade=cascade, calling=id_)
        ids, held = leaving(caller.messages, erased, cascade=cascade, calling=calling)
        told = report(erased, len(ids), held)
        if caller.call is None or not caller.messages:
            return told
        result = ToolMessage(told, tool_call_id=caller.call)
        update: list[BaseMessage] = [result, *(RemoveMessage(id=one) for one in ids)]
        return Command(update=update if isinstance(caller.state, list) else {"messages": update})

    # Helpers

    def tool(self, name: str, schema: type[BaseModel]) -> BaseTool:
        """One of the methods above as a tool."""
        work: Callable[..., Any] = getattr(self, name)

        def run(runtime: Runtime = None, **given: Any) -> Any:
            return _acted(lambda: work(caller_of(runtime, self._user, self._tenant), **given))

        async def arun(runtime: Runtime = None, **given: Any) -> Any:
            caller = _acted(lambda: caller_of(runtime, self._user, self._tenant))
            return await self._awaited.run(lambda: _acted(lambda: work(caller, **given)))

        return StructuredTool(
            name=name,
            description=" ".join((work.__doc__ or "").split()),
            args_schema=schema,
            func=run,
            coroutine=arun,
            handle_tool_error=True,
            handle_validation_error=_refused,
        )

    def _family(self, caller: Caller) -> Family:
        return threads_of(self._memory).family(caller.scope)

    def _record(self, caller: Caller) -> tuple[UserArchive, SessionRecord | None]:
        """The thread's session in the archive, which can be read while somebody is using it."""
        archive = self._memory.archive.user(caller.scope.tenant, caller.scope.user)
        if caller.handle is not None:
            with suppress(SessionNotFound):
                return archive, archive.session(caller.handle["session"])
        return archive, archive.find(caller.scope.thread)

    def _in_words(self) -> list[Any]:
        """Has the model answer in words, where it could call the tools that are pinned in its window."""
        with suppress(InputError):  # a tokenizer that no grammar can be asked of
            held = forbidden_calls(self._memory.chat)
            return [] if held is None else [held]
        return []


_SCHEMAS: dict[str, type[BaseModel]] = {
    "recall": Question,
    "search_transcript": Query,
    "list_memories": Newest,
    "forget": Chosen,
}
_NAMES = tuple(_SCHEMAS)


def memory_tools(
    memory: SleepMemory,
    *,
    user: str = "default",
    tenant: str = "default",
    include: Sequence[str] = _NAMES,
    timeout: float = 60.0,
    max_tokens: int = 64,
) -> list[BaseTool]:
    """Tools for an agent on any chat model, whose memory hears the thread (by :class:`SleepMiddleware`, or by hand), or
    is that model itself. The thread is that of the run's config. What a model can act on comes back as the tool's
    result.

    - ``recall(question)`` asks the slept state, which leaves no trace in it, and quotes messages that share words with
      question and answer.
    - ``search_transcript(query, limit)`` is full-text search of the log.
    - ``list_memories(limit)`` lists the thread's snapshots.
    - ``forget(messages, cascade)`` removes messages from the log and all states, reads the rest again, and takes the
      same messages out of the agent's list. Checkpoints that the agent's checkpointer keeps from before still hold
      them, and so does whatever else the application has kept.

    Args:
        user, tenant: whose memory it is, where the config has no ``user_id`` or ``tenant_id``.
        include: which of the tools.
        timeout: seconds to wait for whoever is using the thread.
        max_tokens: where an answer of ``recall`` is cut.

    Raises:
        SettingsError: an unknown tool in ``include``.
    """
    unknown = [name for name in include if name not in _SCHEMAS]
    if unknown or isinstance(include, str):
        raise SettingsError(f"include is {include!r}; give a list of some of {', '.join(_NAMES)}")
    tools = Tools(memory, user, tenant, timeout, max_tokens)
    return [tools.tool(name, _SCHEMAS[name]) for name in include]


def _acted(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except AgentsleepError as error:
        raise ToolException(f"{type(error).__name__}: {error}"[:_MOST]) from error


def _refused(error: Any) -> str:
    """What a model reads of arguments of the wrong kind."""
    told = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
    return f"InputError: {'; '.join(told)}"[:_MOST]


def _evidence(archive: UserArchive, session_id: str, hits: Sequence[Hit]) -> list[Hit]:
    """Messages but for calls of these tools and their results: these repeat what is asked, and what was found."""

    def own(hit: Hit) -> bool:
        if hit.role == "tool":
            return hit.text.startswith(_OWN)
        calls: Any = []
        if hit.role == "assistant":
            calls = archive.events(session_id, hit.seq, hit.seq + 1)[0].data.get("calls", ())
        return any(call["name"] in _NAMES for call in calls)

    return [hit for hit in hits if not own(hit)]


def _line(hit: Hit) -> str:
    return f"[{hit.seq}] {hit.role}: {quote(hit.text)}"
