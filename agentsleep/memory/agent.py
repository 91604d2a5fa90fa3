"""A minimal agent loop: the model speaks, calls tools, reads their results, speaks again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from agentsleep.chat import ToolCall
from agentsleep.errors import InputError, SettingsError, ToolError, ToolFailed
from agentsleep.memory.session import Session
from agentsleep.memory.toolbox import Tool, Toolbox
from agentsleep.memory.values import Answer

OnToolError = Literal["tell", "raise"]
_TOLD = 200  # characters of an error that the model reads


class Agent:
    """A session with tools. Threads that share one are served one after the other.

    Args:
        session: its open window is read again with the tools pinned at its head.
        tools: callables (schema from type hints and docstring) or :class:`Tool`.
        max_steps: answers in one turn that call tools, one or several each.
        on_tool_error: "tell" lets the model read ``error: ...`` as the tool's result and go on; "raise" raises after
            that was read, so that the conversation stays whole either way.

    Raises:
        SettingsError: max_steps below 1, an unknown on_tool_error, or what :class:`Tool` refuses.
        MessageTooLong: the list of tools would take more than half of a window.
    """

    def __init__(
        self,
        session: Session,
        tools: Sequence[Tool | Callable[..., Any]] = (),
        *,
        max_steps: int = 8,
        on_tool_error: OnToolError = "tell",
    ) -> None:
        if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
            raise SettingsError(f"max_steps is {max_steps!r}; it must be a whole number of at least 1")
        if on_tool_error not in get_args(OnToolError):
            raise SettingsError(f"on_tool_error is {on_tool_error!r}; it must be one of {get_args(OnToolError)}")
        self.session, self.toolbox = session, Toolbox(tools)
        self.max_steps, self.on_tool_error = max_steps, on_tool_error
        self.errors: list[ToolError] = []
        self._running = threading.Lock()
        session.pin(tools=self.toolbox.schemas)

    def run(self, text: str, **options: Any) -> Answer:
        """One turn of the user, up to the model's answer in words.

        Args:
            options: of :meth:`Session.generate`, such as ``max_new_tokens``, for each of the model's answers.

        Raises:
            ToolError: with ``on_tool_error="raise"``, or after ``max_steps`` calls without an answer in words.
        """
        with self._running:
            answer = self.session.ask(text, **options)
            for _ in range(self.max_steps):
                if answer.call is None:
                    return answer
                for call in answer.calls:
                    self._call(call)
                answer = self.session.generate(**options)
            if answer.call is None:
                return answer
            error = ToolFailed(f"the model still calls tools after {self.max_steps} calls in one turn; raise max_steps")
            self._tell(error, "no more calls in this turn")
            raise error

    def _call(self, call: ToolCall) -> None:
        """Runs a call and has the model read what came of it."""
        try:
            result = self._result(call)
            try:
                self.session.add("tool", result)
            except InputError as error:  # too long for the windows it may fill: refused before anything was read
                raise ToolFailed(f"the result of {call.name} cannot be read: {error}") from error
        except ToolError as error:
            self._tell(error, str(error))
            if self.on_tool_error == "raise":
                raise

    def _result(self, call: ToolCall) -> str:
        try:
            return self.toolbox.run(call)
        except KeyboardInterrupt:
            self._tell(ToolFailed(f"{call.name} was interrupted"), "interrupted")
            raise

    def _tell(self, error: ToolError, what: str) -> None:
        self.errors.append(error)
        self.session.add("tool", f"error: {what}"[:_TOLD].encode(errors="replace").decode())
