"""Python callables as tools: called by name, with checked arguments, in a way that cannot hang or flood the agent."""

from __future__ import annotations

import inspect
import json
import queue
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentsleep.chat import ToolCall
from agentsleep.errors import SettingsError, ToolFailed, ToolTimeout, UnknownTool
from agentsleep.memory.schema import misfit, schema_of

_SHOWN = 200  # characters of a call's arguments in a message


class Tool:
    """A callable that the model may call.

    Args:
        function: type hints give the arguments' types, the docstring's first paragraph the description.
        timeout: seconds after which a call is given up (its thread cannot be stopped and is left behind).
        max_chars: longest result; a longer one is an error, not a cut text that reads as if it were whole.

    Raises:
        SettingsError: a parameter without a type hint, or of a type that JSON cannot carry; an async function; a
            timeout or max_chars that is not above 0.
    """

    def __init__(self, function: Callable[..., Any], *, timeout: float = 30.0, max_chars: int = 20_000) -> None:
        if not timeout > 0 or not max_chars > 0:
            raise SettingsError(f"timeout is {timeout!r} s and max_chars {max_chars!r}; both must be above 0")
        # Longer than any wait that threading allows is for ever all the same.
        self.function, self.timeout, self.max_chars = function, min(timeout, threading.TIMEOUT_MAX), max_chars
        self.name = getattr(function, "__name__", type(function).__name__)
        self.schema = schema_of(self.name, function)

    def __call__(self, arguments: Mapping[str, Any]) -> str:
        """Runs the tool.

        Raises:
            ToolFailed: it raised, was given wrong arguments, or returned too much, nothing, or what is no text.
            ToolTimeout: it did not return in time.
        """
        shown = f"{self.name}({json.dumps(dict(arguments), ensure_ascii=False, default=repr)[:_SHOWN]})"
        self._check(shown, arguments)
        outcome: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

        def work() -> None:
            try:
                outcome.put((self.function(**arguments), None))
            except BaseException as error:  # SystemExit too: whatever a user's tool raises is told to the agent
                outcome.put((None, error))

        threading.Thread(target=work, name=f"tool {self.name}", daemon=True).start()
        try:
            value, error = outcome.get(timeout=self.timeout)
        except queue.Empty:
            raise ToolTimeout(
                f"{shown} did not return within {self.timeout:g} s; give Tool(..., timeout=...) more time, or mend it"
            ) from None
        if error is not None:
            said = "".join(traceback.format_exception_only(error)).strip()  # also where str(error) raises
            raise ToolFailed(f"{shown} raised {said}") from error
        return self._text(shown, value)

    def _check(self, shown: str, arguments: Mapping[str, Any]) -> None:
        try:
            inspect.signature(self.function).bind(**arguments)
        except TypeError as error:
            raise ToolFailed(f"{shown} cannot be called: {error}") from None
        for name, schema in self.schema["function"]["parameters"]["properties"].items():
            if name in arguments and (wrong := misfit(arguments[name], schema)):
                raise ToolFailed(f"{shown} cannot be called: {name} {wrong}")

    def _text(self, shown: str, value: Any) -> str:
        try:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            text.encode()
        except Exception as error:  # a ring of lists, odd keys, half a surrogate pair, a broken __str__
            kind = type(value).__name__
            raise ToolFailed(
                f"{shown} returned a {kind} that is no text ({error}); return a str or plain JSON"
            ) from error
        if len(text) > self.max_chars:
            raise ToolFailed(
                f"{shown} returned {len(text)} characters, at most {self.max_chars} are read; "
                "return less, or raise Tool(..., max_chars=...)"
            )
        if not text.strip():
            raise ToolFailed(f"{shown} returned no text; return what the model should read")
        return text


class Toolbox:
    """Tools by name."""

    def __init__(self, tools: Sequence[Tool | Callable[..., Any]] = ()) -> None:
        made = [tool if isinstance(tool, Tool) else Tool(tool) for tool in tools]
        self.tools = {tool.name: tool for tool in made}
        if len(self.tools) < len(made):
            raise SettingsError(f"two tools have the same name among {[tool.name for tool in made]}; rename one")

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """What the model is told about them."""
        return [tool.schema for tool in self.tools.values()]

    def run(self, call: ToolCall) -> str:
        """Runs a call of the model.

        Raises:
            UnknownTool: no such tool.  ToolFailed, ToolTimeout: as the tool.
        """
        if call.name not in self.tools:
            raise UnknownTool(f"the model called {call.name!r:.80}; there are {sorted(self.tools) or 'no tools'}")
        return self.tools[call.name](call.arguments)
