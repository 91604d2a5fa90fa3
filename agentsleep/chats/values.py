"""What chat formats take and give."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Role = Literal["system", "user", "assistant", "tool"]
ToolSchema: TypeAlias = Mapping[str, Any]  # {"type": "function", "function": {"name", "description", "parameters"}}


@dataclass(frozen=True)
class ToolCall:
    """A call that the model wrote."""

    name: str
    arguments: Mapping[str, Any]

    def to_json(self) -> str:
        """The call as JSON: ``{"name": ..., "arguments": {...}}``."""
        return json.dumps({"name": self.name, "arguments": dict(self.arguments)}, ensure_ascii=False)


@dataclass(frozen=True)
class Reply:
    """What the model answered.

    text: what it said besides calls and thoughts.
    call: the first of its calls.
    warning: why a call could not be read; the text then holds what was written.
    calls: all of its calls, in order.
    thought: what it wrote between its thinking markers; None for nothing.
    """

    text: str
    call: ToolCall | None = None
    warning: str | None = None
    calls: tuple[ToolCall, ...] = ()
    thought: str | None = None

    def __post_init__(self) -> None:
        if self.call is not None and not self.calls:
            object.__setattr__(self, "calls", (self.call,))
        if self.calls and self.call is None:
            object.__setattr__(self, "call", self.calls[0])
