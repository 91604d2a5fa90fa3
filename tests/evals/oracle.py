"""An agent that always knows better than the model: it reads what it was told from the session's own log."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from agentsleep.chat import ToolCall
from agentsleep.memory import Answer, Session
from agentsleep.tasks import rota

Slip = Callable[[int, str, bool], bool]


@dataclass
class Oracle:
    """Takes the model's place in every session.

    calls: the calls that it makes for a person, one after the other; its own name by default.
    slips: whether it errs, by the question's depth, its person, and whether it is to be remembered.
    """

    calls: Callable[[str], list[str]] = lambda person: [person]
    slips: Slip = lambda depth, person, remember: False
    seen: list[tuple[str, bool, int, int, list[str]]] = field(default_factory=list)
    _left: list[str] = field(default_factory=list)

    def install(self, patch: pytest.MonkeyPatch) -> Oracle:
        def ask(session: Session, text: str, *, remember: bool = True, **settings: Any) -> Answer:
            return self._ask(session, text, remember)

        patch.setattr(Session, "ask", ask)
        patch.setattr(Session, "generate", lambda session, **settings: self._say(session))
        return self

    def _ask(self, session: Session, text: str, remember: bool) -> Answer:
        if asked := re.fullmatch(r"who comes (\d+) after (\w+) \?", text):
            return self._reply(session, text, int(asked[1]), asked[2], remember)
        session.add("user", text)
        if wanted := re.fullmatch(r"look up (\w+) \.", text):
            self._left = self.calls(wanted[1])
        return self._say(session)

    def _reply(self, session: Session, text: str, depth: int, person: str, remember: bool) -> Answer:
        now = session.stats()
        snapshots = [snapshot.mode for snapshot in session.history()]
        self.seen.append((text, remember, now.window_tokens - now.pinned_tokens, now.pinned_tokens, snapshots))
        told = {
            said[1]: said[2]
            for event in session.messages()
            if event.role == "tool" and (said := re.fullmatch(r"(\w+) hands over to (\w+) \.", event.text or ""))
        }
        answer = person
        for _ in range(depth):
            answer = told.get(answer, rota.UNKNOWN)
        if self.slips(depth, person, remember):
            answer = person
        if remember:
            session.add("user", text)
            session.add("assistant", answer)
        return Answer(text=answer, snapshot=None, tokens=2)

    def _say(self, session: Session) -> Answer:
        if self._left:
            call = ToolCall(rota.TOOL_NAME, {rota.TOOL_ARGUMENT: self._left.pop(0)})
            session.add("assistant", call.to_json())
            return Answer(text="", snapshot=None, tokens=5, call=call)
        session.add("assistant", rota.NOTED)
        return Answer(text=rota.NOTED, snapshot=None, tokens=2)
