"""One call of the chat model: the session that continues the list, what its turn is held to, and the message."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from langchain_core.messages import AIMessage, ToolCall
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata

from agentsleep.archive import JSON, Scope
from agentsleep.memory import Answer, Position, Session, SleepFinished, SleepMemory
from langchain_agentsleep.branches import handle_at, read
from langchain_agentsleep.choices import AUTO, NONE, Asked
from langchain_agentsleep.events import Tell, Told
from langchain_agentsleep.families import MESSAGE_ID, Turn
from langchain_agentsleep.grammar import forbidden_calls, forced_calls, json_answer
from langchain_agentsleep.messages import METADATA, Listed
from langchain_agentsleep.threads import threads_of

HANDLE = "agentsleep"
"""Where an answer's response_metadata tells the handle of the memory behind it."""


class Spoken:
    """A session that has read the list and is to answer.

    id: of the answer's message.  options: of :meth:`agentsleep.memory.Session.generate`.

    Args:
        close: tokens that the chat format has behind the end of a turn.
    """

    def __init__(self, turn: Turn, kept: bool, options: dict[str, Any], model: str, close: int) -> None:
        self.session, self.options = turn.session, options
        self.id = f"{MESSAGE_ID}{turn.session.id}-{uuid.uuid4().hex[:12]}"
        self.sleeps: list[SleepFinished] = []
        about: dict[str, JSON] = {"id": self.id}
        self.options["metadata"] = {METADATA: about}
        self._known, self._kept, self._model = turn.known, kept, model
        self._close = close

    def message(self, answer: Answer) -> AIMessage:
        """The answer, and what it took."""
        place = self.session.position()
        calls = [
            ToolCall(name=call.name, args=dict(call.arguments), id=f"call_{self.id[-12:]}_{number}", type="tool_call")
            for number, call in enumerate(answer.calls)
        ]
        reason = "length" if not answer.finished else "tool_calls" if calls else "stop"
        metadata: dict[str, Any] = {
            "model_provider": "agentsleep",
            "model_name": self._model,
            "finish_reason": reason,
            "snapshot": answer.snapshot,
            "sleeps": len(self.sleeps),
            "passes": sum(told.passes * told.rounds for told in self.sleeps),
            "sleep_tokens": sum(told.tokens * told.passes * told.rounds for told in self.sleeps),
        }
        if self._kept:
            metadata[HANDLE] = handle_at(self.session, place)
        if answer.warning:
            metadata["warning"] = answer.warning
        return AIMessage(
            content=answer.text,
            id=self.id,
            tool_calls=calls,
            additional_kwargs={"reasoning_content": answer.thought} if answer.thought else {},
            response_metadata=metadata,
            usage_metadata=self._usage(answer, place),
        )

    def _usage(self, answer: Answer, place: Position) -> UsageMetadata:
        """All that the answer rests on counts as input; what did not have to be read for it, as cached."""
        closed = self._close + (not answer.finished)  # in the log, and not written by the model
        read_so_far = max(0, place.tokens + place.pinned_tokens - answer.tokens - closed)
        return UsageMetadata(
            input_tokens=read_so_far,
            output_tokens=answer.tokens,
            total_tokens=read_so_far + answer.tokens,
            input_token_details=InputTokenDetails(cache_read=min(self._known, read_so_far)),
        )


class Conversation:
    """A call.

    Args:
        scope: the thread; None: the list is read in a session that is not kept.
        messages: but for the system message at their head.
        tell: told of sleeps.  model: its name.
    """

    def __init__(
        self,
        memory: SleepMemory,
        scope: Scope | None,
        system: str | None,
        messages: Sequence[Listed],
        asked: Asked,
        *,
        timeout: float,
        tell: Tell,
        model: str,
    ) -> None:
        self._memory, self._scope, self._system, self._messages = memory, scope, system, messages
        self._asked, self._timeout, self._tell, self._model = asked, timeout, tell, model
        self._sleeps: list[SleepFinished] = []

    @contextmanager
    def spoken(self) -> Iterator[Spoken]:
        """The session in the caller's hands, having read what is new of the list.

        Raises:
            As :meth:`agentsleep_langchain.threads.Family.turn`.
        """
        options = self._options()
        with self._turn() as turn:
            spoken = Spoken(turn, self._scope is not None, options, self._model, len(self._memory.chat.close))
            spoken.sleeps = self._sleeps
            try:
                yield spoken
            finally:
                turn.session.on_sleep = None

    @contextmanager
    def _turn(self) -> Iterator[Turn]:
        if self._scope is None:
            with self._memory.scratch() as session:
                self._prepare(session)
                read(session, self._messages, True)
                yield Turn(session, 0)
            return
        family = threads_of(self._memory).family(self._scope)
        link = self._asked.link
        with family.turn(
            self._messages, handle=link.handle, timeout=self._timeout, policy=link.policy, prepare=self._prepare
        ) as turn:
            yield turn

    def _prepare(self, session: Session) -> None:
        session.on_sleep = self._told
        session.pin(system=self._system or "", tools=self._asked.tools)

    def _told(self, told: Told) -> None:
        if isinstance(told, SleepFinished):
            self._sleeps.append(told)
        self._tell(told)

    def _options(self) -> dict[str, Any]:
        asked = self._asked
        options = dict(asked.options)
        chat = self._memory.chat.with_tools(asked.tools)
        most = options.get("max_new_tokens", 64)
        held = None
        if asked.schema is not None:
            tools = asked.tools if asked.choice == AUTO else ()
            held = json_answer(chat, asked.schema or None, tools=tools, parallel=asked.parallel, max_tokens=most)
        elif asked.choice not in (AUTO, NONE):
            held = forced_calls(chat, asked.tools, asked.choice, parallel=asked.parallel, max_tokens=most)
        elif not asked.tools:  # a call of what is not on offer helps nobody
            options["suppress_tokens"] = [*(options.get("suppress_tokens") or ()), *sorted(chat.call_markers.tokens)]
        elif asked.choice == NONE:
            held = forbidden_calls(chat)
        if held is not None:
            options["logits_processor"] = [*options.get("logits_processor", ()), held]
        return options


class Begun:
    """A conversation that was entered in one thread and is left in another."""

    def __init__(self, context: AbstractContextManager[Spoken]) -> None:
        self._context = context
        self.spoken = context.__enter__()

    def end(self) -> None:
        """Leaves it."""
        self._context.__exit__(None, None, None)
