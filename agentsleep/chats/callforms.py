"""The form in which a chat template writes calls, found as differences between renderings of stand-in calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from agentsleep.chats.calls import CallReader
from agentsleep.chats.controls import Controls
from agentsleep.chats.forms import CallForm, Piece, Tags
from agentsleep.chats.prompts import Prompted
from agentsleep.chats.turns import STAND_IN_TOOL, Message, Refused, Renderer, Turn, called
from agentsleep.chats.values import ToolCall


class Scene(NamedTuple):
    """Where calls stand in a conversation.

    user, result: the turns before and behind a call.
    tools: whether the conversation offers tools.
    """

    renderer: Renderer
    user: Turn
    result: Turn
    tools: bool

    def past(self, message: Message) -> str:
        """What the template writes for a message with calls, between a question and a result.

        Raises:
            Refused: it raises, or writes no result behind the message.
        """
        say, slot = self.renderer.said, self.renderer.slot
        text = self.renderer.render([say("user"), message, say("tool", 2)], [STAND_IN_TOOL] if self.tools else [])
        start = text.find(slot(0)) + len(slot(0) + self.user.after)
        stop = text.rfind(self.result.before + slot(2))
        if stop < start:
            raise Refused("it does not write the result of a call as it writes others")
        return text[start:stop]


class Finder:
    """Looks at a template's calls.

    Args:
        reader: of the calls of models with this template.
    """

    def __init__(self, scene: Scene, prompted: Prompted, controls: Controls, reader: CallReader) -> None:
        self._scene, self._prompted, self._controls, self._reader = scene, prompted, controls, reader
        self._name, self._other, self._key, self._value = map(controls.slot, ("name", "other", "key", "value"))

    def find(self) -> tuple[CallForm, str]:
        """The form, but for its end; and all that the template writes behind the arguments of the last call.

        Raises:
            Refused: the template writes calls in a way that no form describes; the message says which.
        """
        text = self._written({self._key: self._value})
        if any(text.count(slot) != 1 for slot in (self._name, self._key, self._value)):
            raise Refused("it leaves out or repeats the name or the arguments of a call")
        if text.index(self._key) < text.index(self._name):
            raise Refused("it writes the arguments of a call before its name")
        lead, _, rest = text.partition(self._name)
        tags, separators = None, (", ", ": ")
        if found := re.search(rf'\{{\s*"{self._key}"(\s*:\s*)"{self._value}"\s*\}}', rest):
            start, stop = found.span()
            separators = self._comma(), ": " if "\n" in found[1] else found[1]
        else:
            start, stop, tags = self._tags(lead, rest)
        joint = self._joint(lead, rest, rest[:stop])
        pieces = self._controls.pieces
        form = CallForm(
            pieces(lead), pieces(rest[:start]), (), None if joint is None else pieces(joint), separators, tags
        )
        return form, rest[stop:]

    def _written(self, arguments: Mapping[str, Any], *more: Message) -> str:
        """What a model writes behind the prompt to call a tool, and those of further messages."""
        message = called(self._name, dict(arguments))
        message["tool_calls"] = [call for one in (message, *more) for call in one["tool_calls"]]
        past = self._scene.past(message)
        text = self._prompted.behind(past)
        if text is None and self._reader.before(past).strip():
            raise Refused(
                f"it begins a turn with calls with {past[:40]!r}, and its prompt is {self._prompted.prompt!r}"
            )
        return past if text is None else text  # calls that stand outside of any turn

    def _comma(self) -> str:
        """What stands between the items of an object; on one line, also where a template writes several."""
        text = self._written({self._key: self._value, self._other: ""})
        found = re.search(rf'"{self._value}"(\s*,\s*)"{self._other}"', text)
        return found[1] if found and "\n" not in found[1] else ", "

    def _tags(self, lead: str, rest: str) -> tuple[int, int, Tags]:
        """Where in what stands behind the name the arguments begin and end, which are written as tags."""
        lead += self._name

        def behind_name(arguments: Mapping[str, Any]) -> str:
            text = self._written(arguments)
            if not text.startswith(lead):
                raise Refused("what it writes before a call depends on the arguments")
            return text.removeprefix(lead)

        none = behind_name({})
        length = len(rest) - len(none)
        cuts = [cut for cut in range(len(none) + 1) if length > 0 and rest[:cut] + rest[cut + length :] == none]
        cuts = [cut for cut in cuts if cut <= rest.index(self._key) and rest.index(self._value) < cut + length]
        if not cuts:
            raise Refused("it writes arguments neither as a JSON object nor as tags")
        # Where the same text may be cut in several ways, an argument begins with its tag.
        start = next((cut for cut in cuts if rest[cut] in "<["), cuts[0])
        stop = start + length
        tag = rest[start:stop]
        more = tag.replace(self._key, self._other).replace(self._value, "[1, null]")
        if behind_name({self._key: self._value, self._other: [1, None]}) != rest[:stop] + more + rest[stop:]:
            raise Refused("it does not write each argument as a tag, a string as it is and all else as JSON")
        before, _, behind = tag.partition(self._key)
        between, _, after = behind.partition(self._value)
        return start, stop, Tags(*map(self._controls.pieces, (before, between, after)))

    def _joint(self, lead: str, rest: str, body: str) -> str | None:
        """What stands between the arguments of a call and the name of the next; None where there is no next."""
        arguments = {self._key: self._value}
        try:
            text = self._written(arguments, called(self._other, arguments))
        except Refused:
            return None
        before, found, after = text.partition(self._other)
        if not found or after != rest or not before.startswith(lead + self._name + body):
            return None
        return before.removeprefix(lead + self._name + body)


def checked(form: CallForm, read: Callable[[Sequence[Piece]], tuple[ToolCall, ...]]) -> CallForm:
    """The form, if calls that are written in it are read as the same; for one call a turn if several are not.

    Raises:
        Refused: a call is not read back.
    """
    calls = ToolCall("look", {"at": "here", "for": "all"}), ToolCall("look", {})
    for call in calls:
        if read(form.write([call])) != (call,):
            raise Refused(f"its calls, {form.write([call])}, are not read back as such")
    if form.joint is not None and read(form.write(calls)) != calls:
        return replace(form, joint=None)
    return form
