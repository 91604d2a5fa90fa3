"""A minimal agent loop: the model speaks, calls tools, reads their results, speaks again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from agentsleep.errors import SettingsError, ToolError
from agentsleep.memory.session import Answer, Session
from agentsleep.memory.toolbox import Tool, Toolbox


class Agent:
    """A session with tools.

    Args:
        session: its open window is read again with the tools pinned at its head.
        tools: callables (schema from type hints and docstring) or :class:`Tool`.
        max_steps: tool calls in one turn.
        on_tool_error: "tell" lets the model read ``error: ...`` as the tool's result and go on; "raise" raises after
            that was read, so that the conversation stays whole either way.
    """

    def __init__(
        self,
        session: Session,
        tools: Sequence[Tool | Callable[..., Any]] = (),
        *,
        max_steps: int = 8,
        on_tool_error: Literal["tell", "raise"] = "tell",
    ) -> None:
        if max_steps < 1:
            raise SettingsError(f"max_steps is {max_steps}; it must be at least 1")
        self.session, self.toolbox = session, Toolbox(tools)
        self.max_steps, self.on_tool_error = max_steps, on_tool_error
        self.errors: list[ToolError] = []
        session.pin(tools=self.toolbox.schemas)

    def run(self, text: str) -> Answer:
        """One turn of the user, up to the model's answer in words.

        Raises:
            ToolError: with ``on_tool_error="raise"``, or after ``max_steps`` calls without an answer in words.
        """
        answer = self.session.ask(text)
        for _ in range(self.max_steps):
            if answer.call is None:
                return answer
            try:
                result = self.toolbox.run(answer.call)
            except ToolError as error:
                self.errors.append(error)
                self.session.add("tool", f"error: {str(error)[:500]}")
                if self.on_tool_error == "raise":
                    raise
            else:
                self.session.add("tool", result)
            answer = self.session.generate()
        if answer.call is None:
            return answer
        raise ToolError(f"the model still calls tools after {self.max_steps} calls in one turn; raise max_steps")
