"""ChatSleep: a LangChain chat model over a SleepMemory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import LanguageModelInput, ModelProfile
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, Field

from agentsleep.errors import InputError, SettingsError
from agentsleep.memory import AsyncSleepMemory, SleepMemory
from langchain_agentsleep.choices import Asked, asked, choice_of
from langchain_agentsleep.conversation import Begun, Conversation, Spoken
from langchain_agentsleep.counting import count_messages
from langchain_agentsleep.events import Tell, async_teller, teller, within
from langchain_agentsleep.messages import listed
from langchain_agentsleep.structured import Method, structured
from langchain_agentsleep.threaded import ThreadedChatModel
from langchain_agentsleep.threads import threads_of

PROVIDER = "agentsleep"
# Given to any chat model by code that was written for those behind an API; nothing follows from them here.
_IDLE = ("api_key", "max_retries", "streaming")


class ChatSleep(ThreadedChatModel):
    """A chat model that sleeps: ``ChatSleep(memory)``.

    The thread is that of the config: ``{"configurable": {"thread_id": ...}}``, optionally with ``user_id`` and
    ``tenant_id``. In a thread the model reads only what is new of the list of messages, sleeps by the memory's policy,
    and remembers what has left the list; an edited or rewound list goes on from a branch of the thread. Without a
    thread it reads the list as it is and keeps nothing.

    Args:
        memory: the model and its archive; by default the shipped one and the user's data folder.
        options: the fields below, and those of every chat model.

    Raises:
        SettingsError: an option that is not known.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    memory: SleepMemory = Field(exclude=True, repr=False)
    """The model and its archive."""
    max_tokens: int = 256
    """Where an answer is cut."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """The probability mass that is sampled from."""
    seed: int | None = None
    """Makes sampling repeat."""
    stop: list[str] | None = None
    """Texts that end an answer; they stay in it."""
    timeout: float = 60.0
    """Seconds to wait for another call that uses the thread; then SessionBusy. 0 does not wait."""
    generation: dict[str, Any] = Field(default_factory=dict)
    """Further options of :meth:`agentsleep.memory.Session.generate`, such as ``repetition_penalty``."""

    def __init__(self, memory: SleepMemory | None = None, **options: Any) -> None:
        known = type(self).model_fields
        aliases = {field.alias for field in known.values()}
        if unknown := [name for name in options if name not in known and name not in aliases and name not in _IDLE]:
            raise SettingsError(
                f"ChatSleep does not know {', '.join(unknown)}; options of Session.generate go into generation={{...}}"
            )
        fields: dict[str, Any] = {"memory": SleepMemory() if memory is None else memory, **options}
        super().__init__(**fields)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        memo = {} if memo is None else memo
        memo |= {id(shared): shared for shared in (self.memory, self.__dict__.get("_awaited"))}
        return super().__deepcopy__(memo)

    def __getstate__(self) -> dict[Any, Any]:
        raise InputError(
            "a ChatSleep cannot be pickled, since its model and archive are open here; make one in the other process"
        )

    @property
    def _llm_type(self) -> str:
        return PROVIDER

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        # All that an answer depends on: LangChain's cache takes models of which these are equal for one.
        return {
            "model": self.model_name,
            "fingerprint": self.memory.fingerprint[:12],
            "settings": repr(self.memory.backend.settings),
            "policy": repr(self.memory.policy),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "default_stop": self.stop,  # under "stop" LangChain puts that of the call
            "generation": self.generation,
        }

    @property
    def model_name(self) -> str:
        """The kind of the model."""
        return str(self.memory.backend.config.model_type)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"], params["ls_model_name"] = PROVIDER, kwargs.get("model", self.model_name)
        params["ls_temperature"] = kwargs.get("temperature", self.temperature)
        params["ls_max_tokens"] = kwargs.get("max_tokens", self.max_tokens)
        if stop or self.stop:
            params["ls_stop"] = list(stop or self.stop or ())
        return params

    def _resolve_model_profile(self) -> ModelProfile | None:
        return ModelProfile(
            max_input_tokens=self.memory.backend.settings.window,
            max_output_tokens=self.max_tokens,
            text_inputs=True,
            text_outputs=True,
            image_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            tool_calling=True,
            tool_choice=True,
            structured_output=True,
        )

    # Tools and forms

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offers tools. A choice other than "auto" is held by a grammar: the model cannot write anything else.

        Args:
            tool_choice: "auto", "none", "any", or the name of a tool.

        Raises:
            SettingsError: a choice of a tool that is not on offer.
        """
        schemas = [convert_to_openai_tool(tool) for tool in tools]
        choice = choice_of(tool_choice, [schema["function"]["name"] for schema in schemas])
        return self.bind(tools=schemas, tool_choice=choice, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        method: Method = "function_calling",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Answers of a given form, held by a grammar.

        Args:
            method: "function_calling" has the model call a tool of that form, "json_schema" answer in JSON of that
                form, "json_mode" in any JSON object.
            include_raw: answers ``{"raw", "parsed", "parsing_error"}``.
            strict: every answer is strict; given for the sake of other models' callers.

        Raises:
            SettingsError: an unknown method, or an option that is not known.
        """
        if kwargs:
            raise SettingsError(f"with_structured_output does not know {', '.join(kwargs)}")
        if method == "function_calling":
            return super().with_structured_output(schema, include_raw=include_raw)
        if method not in ("json_schema", "json_mode"):
            raise SettingsError(f"method is {method!r}; use function_calling, json_schema or json_mode")
        return structured(self, schema, method, include_raw)

    # Counting

    def get_token_ids(self, text: str) -> list[int]:
        """The model's own tokens."""
        ids: list[int] = self.memory.backend.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Tokens of messages in the model's chat format, tools at the head included."""
        return count_messages(self.memory.chat, messages, [convert_to_openai_tool(tool) for tool in tools or ()])

    # Answering

    def _asked(self, stop: Sequence[str] | None, options: Mapping[str, Any]) -> Asked:
        mine: dict[str, Any] = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
        }
        given = {name: value for name, value in options.items() if value is not None}
        if (model := given.pop("model", self.model_name)) != self.model_name:
            raise SettingsError(
                f"model is {model!r}, and this memory's is {self.model_name!r}, which alone can read its states; make "
                "a ChatSleep over a memory of the other model"
            )
        return asked({**mine, **self.generation, **given}, stop or self.stop)

    def _conversation(
        self, messages: Sequence[BaseMessage], stop: Sequence[str] | None, options: Mapping[str, Any], tell: Tell
    ) -> Conversation:
        system, said = listed(messages)
        return Conversation(
            self.memory,
            self._scope(options),
            system,
            said,
            self._asked(stop, options),
            timeout=self.timeout,
            tell=tell,
            model=self.model_name,
        )

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        conversation = self._conversation(messages, stop, kwargs, teller(within(run_manager)))
        with conversation.spoken() as spoken:
            answer = spoken.session.generate(**spoken.options)
            return _result(spoken.message(answer))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        conversation = self._conversation(messages, stop, kwargs, async_teller(within(run_manager)))
        turn = await self._begun(conversation)
        try:
            answer = await self._awaited.lend(turn.spoken.session).generate(**turn.spoken.options)
            return _result(await self._awaited.run(lambda: turn.spoken.message(answer)))
        finally:
            await self._awaited.run(turn.end, always=True)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        conversation = self._conversation(messages, stop, kwargs, teller(within(run_manager)))
        with conversation.spoken() as spoken, spoken.session.generate(stream=True, **spoken.options) as stream:
            for piece in stream:
                yield _piece(spoken, piece)
            assert stream.answer is not None
            message = spoken.message(stream.answer)
        yield _last(message)  # by now the thread is free for whoever gets this

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        conversation = self._conversation(messages, stop, kwargs, async_teller(within(run_manager)))
        turn = await self._begun(conversation)
        spoken = turn.spoken
        try:
            async with self._awaited.lend(spoken.session).stream(**spoken.options) as stream:
                async for piece in stream:
                    yield _piece(spoken, piece)
                answer = stream.answer
                assert answer is not None
                message = await self._awaited.run(lambda: spoken.message(answer))
        finally:
            await self._awaited.run(turn.end, always=True)
        yield _last(message)

    @cached_property
    def _awaited(self) -> AsyncSleepMemory:
        return AsyncSleepMemory(self.memory)

    async def _begun(self, conversation: Conversation) -> Begun:
        return await self._awaited.run(lambda: Begun(conversation.spoken()), Begun.end)

    def close(self) -> None:
        """Lets go of the sessions of all threads; the memory stays open, and the next call opens them again."""
        threads_of(self.memory).close()


def _result(message: AIMessage) -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=message)])


def _piece(spoken: Spoken, text: str) -> ChatGenerationChunk:
    return ChatGenerationChunk(text=text, message=AIMessageChunk(content=text, id=spoken.id))


def _last(message: AIMessage) -> ChatGenerationChunk:
    """What the end of a stream tells, besides the text that was streamed."""
    chunk = AIMessageChunk(
        content="",
        id=message.id,
        tool_calls=message.tool_calls,
        additional_kwargs=message.additional_kwargs,
        response_metadata=message.response_metadata,
        usage_metadata=message.usage_metadata,
        chunk_position="last",
    )
    return ChatGenerationChunk(text="", message=chunk)
