"""SleepMiddleware: an agent of `create_agent` whose messages leave its list once they were slept on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, NotRequired

from langchain.agents.middleware.types import (
    AgentMiddleware,
    AgentState,
    ModelRequest,
    ModelResponse,
    OmitFromOutput,
)
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.runnables.config import ensure_config
from langgraph.runtime import Runtime

from agentsleep.archive import Scope
from agentsleep.errors import InputError, SettingsError
from agentsleep.jobs import later
from agentsleep.memory import AsyncSleepMemory, Session, SleepMemory
from agentsleep.policy import Clause, Passes, Trigger
from langchain_agentsleep.branches import Handle, handle_of
from langchain_agentsleep.chat_model import PROVIDER, ChatSleep
from langchain_agentsleep.choices import Link
from langchain_agentsleep.conversation import HANDLE
from langchain_agentsleep.cutting import removals
from langchain_agentsleep.events import Tell, async_teller, teller
from langchain_agentsleep.families import Family
from langchain_agentsleep.messages import listed
from langchain_agentsleep.scopes import scope_of
from langchain_agentsleep.threads import threads_of

Update = dict[str, Any]
After = Literal["light", "deep"]
When = Literal["now", "later"]


class SleepState(AgentState[Any]):
    """An agent's state. agentsleep: where its memory stands; tensors have no place here. It may be put in, so that a
    thread can be copied: ``graph.update_state(new_config, old_state.values)``."""

    agentsleep: NotRequired[Annotated[Handle | None, OmitFromOutput]]


class SleepMiddleware(AgentMiddleware[SleepState, Any, Any]):
    """Lets an agent sleep: ``create_agent(ChatSleep(memory), tools, middleware=[SleepMiddleware(memory)])``.

    With :class:`ChatSleep` as its model the agent's session sleeps by the policy that is given here, and messages leave
    the agent's list once the state that holds them is archived. With another model, one behind an API, the memory
    listens: it reads what is said, sleeps on it when the list is due, and is asked by ``memory_tools``.

    The state keeps a handle, so that a thread that is rewound or forked takes its memory along.

    Args:
        memory: that of the model.
        trigger, keep, passes: as in :class:`agentsleep.policy.SleepPolicy`, in the grammar of
            SummarizationMiddleware: ``("fraction", 0.9)``, ``("tokens", 80)``, ``("messages", 12)``, a list of such
            (or), a dict (and). What is not given is the memory's own.
        after: how the agent sleeps between tasks, when it has given its answer: "light", "deep" (archived windows are
            read again) or None: not at all.
        rounds: of deep sleep; None takes the model's own.
        when: "now" sleeps before the agent returns; "later" leaves a job in the archive's database to
            ``agentsleep worker``.
        remove: False leaves the agent's list alone.
        timeout: seconds to wait for whoever else uses the thread.
        user, tenant: whose memory it is, where the config has no ``user_id`` or ``tenant_id``.
        token_counter: with a model behind an API, counts the list for ``trigger`` and ``keep``.
        window: tokens of that model, for fractions.

    Raises:
        SettingsError: a value out of its range.
    """

    state_schema = SleepState

    def __init__(
        self,
        memory: SleepMemory,
        *,
        trigger: Trigger | Literal["memory"] = "memory",
        keep: Clause | Literal["memory"] | None = "memory",
        passes: Passes | None = None,
        after: After | None = "light",
        rounds: int | None = None,
        when: When = "now",
        remove: bool = True,
        timeout: float = 60.0,
        user: str = "default",
        tenant: str = "default",
        token_counter: Callable[[Sequence[BaseMessage]], int] = count_tokens_approximately,
        window: int | None = None,
    ) -> None:
        super().__init__()
        changes: dict[str, Any] = {} if trigger == "memory" else {"trigger": trigger}
        changes |= {} if keep == "memory" else {"keep": keep}
        changes |= {} if passes is None else {"passes": passes}
        self.memory = memory
        self.policy = replace(memory.policy, **changes)
        for name, value, known in (("after", after, ("light", "deep", None)), ("when", when, ("now", "later"))):
            if value not in known:
                raise SettingsError(f"{name} is {value!r}; use one of {known}")
        for name, count in (("rounds", rounds), ("window", window)):
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
                raise SettingsError(f"{name} is {count!r}; it must be a whole number of at least 1, or None")
        self._after, self._rounds, self._when, self._remove = after, rounds, when, remove
        self._timeout, self._user, self._tenant = timeout, user, tenant
        self._count, self._window = token_counter, window
        self._awaited = AsyncSleepMemory(memory)

    # The hooks. What they do may take the time of a forward pass, so the event loop has it done by a thread.

    def before_agent(self, state: SleepState, runtime: Runtime[Any]) -> Update | None:
        """Refuses a run that names no thread."""
        self._scope()
        return None

    async def abefore_agent(self, state: SleepState, runtime: Runtime[Any]) -> Update | None:
        """Refuses a run that names no thread."""
        return self.before_agent(state, runtime)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Tells the model where the memory stands by the agent's state."""
        return handler(self._linked(request))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Tells the model where the memory stands by the agent's state."""
        return await handler(self._linked(request))

    def after_model(self, state: SleepState, runtime: Runtime[Any]) -> Update | None:
        """Keeps the handle; messages that were slept on leave the list."""
        return self._settled(self._scope(), state, teller(ensure_config()))

    async def aafter_model(self, state: SleepState, runtime: Runtime[Any]) -> Update | None:
        """Keeps the handle; messages that were slept on leave the list."""
        scope, tell = self._scope(), async_teller(ensure_config())
        return await self._awaited.run(lambda: self._settled(scope, state, tell))

    def after_agent(self, state: SleepState, runtime: Runtime[Any]) -> Update | None:
        """Sleeps between tasks, or has a worker do it."""
        return self._slept(self._scope(), state, teller(ensure_config()))

    async def aafter_agent(self, state: SleepState, runtime: Runtime[Any]) -> Update | None:
        """Sleeps between tasks, or has a worker do it."""
        scope, tell = self._scope(), async_teller(ensure_config())
        return await self._awaited.run(lambda: self._slept(scope, state, tell))

    # What they do

    def _scope(self) -> Scope:
        scope = scope_of(ensure_config(), self._user, self._tenant)
        if scope is None:
            raise InputError(
                "the run names no thread, so its memory would be nobody's; pass "
                'config={"configurable": {"thread_id": ...}}'
            )
        return scope

    def _family(self, scope: Scope) -> Family:
        return threads_of(self.memory).family(scope)

    def _linked(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        if not isinstance(request.model, ChatSleep):
            return request
        if request.model.memory is not self.memory:
            raise SettingsError(
                "SleepMiddleware and ChatSleep have different memories; make one SleepMemory and give it to both"
            )
        link = Link(handle=_handle(request.state), policy=self.policy)
        return request.override(model_settings={**request.model_settings, HANDLE: link})

    def _settled(self, scope: Scope, state: SleepState, tell: Tell) -> Update | None:
        messages = state["messages"]
        last = _spoken(messages)
        if last is None:
            return None
        ours = _ours(messages)
        handle = last.response_metadata.get(HANDLE) if ours else self._heard(scope, state, tell)
        if handle is None:
            return None
        return {"agentsleep": handle, **self._removed(scope, messages, handle, ours)}

    def _heard(self, scope: Scope, state: SleepState, tell: Tell) -> Handle:
        """Reads what another model and its user have said, and sleeps on it if the list is due."""
        messages = state["messages"]
        _system, said = listed(messages, naming=True)
        with self._family(scope).turn(
            said, handle=_handle(state), timeout=self._timeout, answered=False, prepare=_telling(tell)
        ) as turn:
            try:
                if self._due(messages):
                    turn.session.sleep(passes=self.policy.passes)
                return handle_of(turn.session)
            finally:
                turn.session.on_sleep = None

    def _slept(self, scope: Scope, state: SleepState, tell: Tell) -> Update | None:
        handle = _handle(state)
        if self._after is None or handle is None:
            return None
        messages = state["messages"]
        ours = _ours(messages)
        deep = self._after == "deep"
        # Where the handle is an older one, of a thread that was rewound or copied, this is a branch.
        with self._family(scope).turn(
            [],
            handle=handle,
            timeout=self._timeout,
            policy=self.policy if ours else None,
            answered=False,
            prepare=_telling(tell),
        ) as turn:
            try:
                if self._when == "later":
                    later(turn.session, deep=deep, passes=self.policy.passes, rounds=self._rounds)
                    return {"agentsleep": handle_of(turn.session)}
                turn.session.sleep(deep=deep, passes=self.policy.passes, rounds=self._rounds)
                handle = handle_of(turn.session)
            finally:
                turn.session.on_sleep = None
        return {"agentsleep": handle, **self._removed(scope, messages, handle, ours)}

    def _removed(self, scope: Scope, messages: Sequence[AnyMessage], handle: Handle, ours: bool) -> Update:
        """The messages that leave the list: only what an archived state holds."""
        if not self._remove or not (ours or self._due(messages)):
            return {}
        kept = 1 if ours else max(1, self._kept(messages))
        consolidated = self._family(scope).consolidated(handle, listed(messages, naming=not ours)[1])
        gone = removals(messages, consolidated, kept=kept, from_user=not ours)
        return {"messages": gone} if gone else {}

    # A list that another model reads: it is counted as that model counts, and the policy is asked

    def _due(self, messages: Sequence[AnyMessage]) -> bool:
        tokens = self._count(messages)
        return self.policy.due(tokens=tokens, messages=len(messages), window=self._capacity())

    def _kept(self, messages: Sequence[AnyMessage]) -> int:
        lengths = [self._count([one]) for one in messages]
        return self.policy.kept(lengths, window=self._capacity(), room=2 * sum(lengths))

    def _capacity(self) -> int:
        return self._window or self.memory.backend.settings.window


def _handle(state: Any) -> Handle | None:
    found: Handle | None = state.get(HANDLE)
    return found


def _spoken(messages: Sequence[AnyMessage]) -> AIMessage | None:
    """The newest message of a model. Behind it there may be results that a form of answer or a middleware has added."""
    return next((one for one in reversed(messages) if isinstance(one, AIMessage)), None)


def _ours(messages: Sequence[AnyMessage]) -> bool:
    """Whether that was a model that sleeps. What a middleware says in its place names no provider."""
    spoken = (one.response_metadata.get("model_provider") for one in reversed(messages) if isinstance(one, AIMessage))
    return next((provider for provider in spoken if provider), None) == PROVIDER


def _telling(tell: Tell) -> Callable[[Session], None]:
    def prepare(session: Session) -> None:
        session.on_sleep = tell

    return prepare
