"""What a chat template writes for its model to continue, and how thoughts stand there."""

from __future__ import annotations

from typing import NamedTuple

from agentsleep.chats.controls import Controls
from agentsleep.chats.thoughts import Markers
from agentsleep.chats.turns import REMEDY, STAND_IN_TOOL, Refused, Renderer, Turn
from agentsleep.errors import UnsupportedModel


def find_prompt(renderer: Renderer, tools: bool) -> str:
    """What is written behind a conversation for the model to continue.

    Raises:
        UnsupportedModel: the template writes no prompt, or rewrites the conversation to add one.
    """
    user, offered = [renderer.said("user")], [STAND_IN_TOOL] if tools else []
    try:
        before, after = renderer.render(user, offered), renderer.render(user, offered, prompt=True)
    except Refused as refused:
        raise UnsupportedModel(f"the chat template writes no prompt: {refused}; {REMEDY}") from refused
    if not after.startswith(before):
        raise UnsupportedModel(f"the chat template rewrites the conversation to add a prompt; {REMEDY}")
    return after[len(before) :]


def find_past(renderer: Renderer, controls: Controls, markers: Markers, user: Turn) -> str | None:
    """What stands before the content of a past assistant's turn that held a thought; None if the thought stays."""
    say, slot, thought = renderer.said, renderer.slot, controls.slot("thought")
    inside = f"{markers.opened}\n{thought}\n{markers.closed}\n\n{slot(1)}"
    apart = say("assistant", 1) | {"reasoning_content": thought}
    for message in (apart, say("assistant", content=inside)):
        try:
            open_turn = renderer.render([say("user"), message])
            past = renderer.render([say("user"), message, say("user", 2)])
        except Refused:
            continue
        if (message is apart and thought not in open_turn) or past.count(slot(1)) != 1:
            continue  # it does not know the field
        if thought in past:
            return None
        return past[past.index(slot(0)) + len(slot(0) + user.after) : past.index(slot(1))]
    return None


class Prompted(NamedTuple):
    """What a model continues, and how it gets from there to what a past turn says."""

    prompt: str
    markers: Markers
    closing: str

    @classmethod
    def of(cls, renderer: Renderer, user: Turn, prompt: str, markers: Markers, tools: bool) -> Prompted:
        """With the end of an empty thought as the template writes it, where the prompt has opened one."""
        thought, closing = renderer.slot(3), f"{markers.closed}\n\n"
        message = renderer.said("assistant", 1) | {"reasoning_content": thought}
        try:
            text = renderer.render([renderer.said("user"), message], [STAND_IN_TOOL] if tools else [])
        except Refused:
            return cls(prompt, markers, closing)
        _, written, rest = text.partition(f"{renderer.slot(0)}{user.after}{prompt}{thought}")
        before, found, _ = rest.partition(renderer.slot(1))
        return cls(prompt, markers, before if written and found and markers.closed in before else closing)

    def behind(self, past: str) -> str | None:
        """What is written behind the prompt, of a past turn that begins like this; None if it begins otherwise."""
        stem, opened, _ = self.prompt.partition(self.markers.opened)
        if not past.startswith(stem):
            return None
        begun = self.prompt.rstrip().endswith(self.markers.opened)
        if opened:
            return (self.closing if begun else "") + past.removeprefix(stem)
        return past.removeprefix(self.prompt)
