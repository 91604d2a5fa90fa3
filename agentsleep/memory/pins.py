"""What is read again at the head of every window: the system message and the list of tools."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from agentsleep.archive import JSON, Event
from agentsleep.backends import SleepSettings
from agentsleep.chat import ChatFormat
from agentsleep.errors import MessageTooLong, SettingsError


@dataclass(frozen=True, kw_only=True)
class Pins:
    """system: the system message; None for none.  tools: JSON schemas of the tools on offer."""

    system: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, event: Event) -> Pins:
        """The pins that an event of the log sets."""
        pins = cast("dict[str, Any]", event.data["pins"])
        return cls(system=pins["system"], tools=tuple(pins["tools"]))

    def changed(self, system: str | None, tools: Sequence[Mapping[str, Any]] | None) -> Pins:
        """These pins with another system message ("" removes it) or other tools; None keeps what there is.

        Raises:
            SettingsError: a tool that is no JSON schema.
        """
        if tools is None:
            schemas = self.tools
        else:
            try:
                schemas = tuple(json.loads(json.dumps(list(tools))))  # as the log will give them back
            except (TypeError, ValueError) as error:
                raise SettingsError(f"the tools' schemas are no JSON ({error}); give plain dicts and lists") from None
        return Pins(system=self.system if system is None else system or None, tools=schemas)

    def data(self, settings: SleepSettings, ids: Sequence[int]) -> dict[str, JSON]:
        """What the log keeps of them: also their tokens, since some templates write the day's date."""
        pins: dict[str, JSON] = {"system": self.system, "tools": list(self.tools)}
        return {"pins": pins, "rendered": {"pin": list(settings.pin), "ids": list(ids)}}

    @staticmethod
    def rendered(event: Event, settings: SleepSettings) -> list[int] | None:
        """The tokens that an event of the log gives them; None where it has none for these settings."""
        stored = cast("dict[str, Any] | None", event.data.get("rendered"))
        return stored["ids"] if stored and stored["pin"] == list(settings.pin) else None

    def render(self, chat: ChatFormat, settings: SleepSettings) -> list[int]:
        """Their tokens, as far as the model was trained to have them pinned.

        Raises:
            MessageTooLong: they would take more than half of a window.
            SettingsError: a tool without name or parameters.
            EmptyMessage: a system message of blanks.
        """
        system = self.system if "system" in settings.pin else None
        tools = self.tools if "tools" in settings.pin else ()
        try:
            pinned = chat.head(system, tools)
        except (KeyError, TypeError) as error:
            raise SettingsError(
                f"a tool's schema lacks {error}; it must be of the form "
                '{"type": "function", "function": {"name": ..., "parameters": {"properties": {...}}}}'
            ) from None
        if len(pinned) > settings.window // 2:
            raise MessageTooLong(
                f"system message and tools take {len(pinned)} tokens, more than half of the window of "
                f"{settings.window}; shorten them, or use a model with a larger window"
            )
        return pinned
