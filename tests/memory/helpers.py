"""Short forms for the memory's tests, and a model that has learnt nothing: states, logs and logits are real."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from agentsleep.archive import Event
from agentsleep.chat import ToolCall
from agentsleep.memory import Session, SleepMemory
from agentsleep.memory.decoding import Sampling
from agentsleep.policy import SleepPolicy
from agentsleep.state import FastWeights
from agentsleep.tasks import rota
from tests.tiny import tiny

ROOT = Path(__file__).parents[2]
WINDOW = 48
FACT = "bob hands over to alice ."  # 6 tokens: marker, 4 pieces, end
FACT_TOKENS = 6
SYSTEM = "the build is fine ."
NEVER = SleepPolicy(trigger=None)


def make_nap(folder: Path, **overrides: Any) -> Path:
    """A checkpoint with rota's tokenizer and random weights."""
    spoken = rota.tokenizer()
    settings: dict[str, Any] = {
        "vocab_size": len(spoken),
        "hidden_size": 32,
        "sleep_window": WINDOW,
        "sleep_passes": 2,
        "sleep_rounds": 2,
    }
    tiny("asas", **settings | overrides).save_pretrained(folder)
    spoken.save_pretrained(folder)
    return folder


def schema(name: str = "look_up", *parameters: str) -> dict[str, Any]:
    """A tool as the model is told of it."""
    properties = {parameter: {"type": "string"} for parameter in parameters or ("person",)}
    function = {"name": name, "description": "", "parameters": {"type": "object", "properties": properties}}
    return {"type": "function", "function": function}


def fill(session: Session, messages: int) -> None:
    """Facts, each another one."""
    for i in range(messages):
        session.add("tool", rota.fact(rota.NAMES[i % 40], rota.NAMES[(i * 7 + 3) % 40]))


def events(session: Session) -> list[Event]:
    """The whole log."""
    return session._archive.events(session.id)


def kinds(session: Session) -> str:
    """The log as letters: t(okens), p(ins), s(leep), d(eep sleep)."""
    return "".join("p" if "pins" in event.data else event.kind[0] for event in events(session))


def stream_of(session: Session) -> list[int]:
    """All tokens of the log, in order."""
    return [token for event in events(session) for token in event.token_ids]


def same(a: FastWeights, b: FastWeights) -> bool:
    """Bit-equal."""
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def assert_near(a: Tensor | None, b: Tensor | None) -> None:
    """What a reopen promises."""
    assert a is not None
    assert b is not None
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@dataclass
class Trace:
    """All that a session is, to be compared with what it was."""

    log: list[Event]
    head: str | None
    tokens: int
    window: list[int]
    logits: Tensor | None
    state: FastWeights

    @classmethod
    def of(cls, session: Session) -> Trace:
        window = session.window
        return cls(
            log=events(session),
            head=session.head.id if session.head else None,
            tokens=session.tokens,
            window=[*window.ids],
            logits=None if window.logits is None else window.logits.clone(),
            state=session.state,
        )

    def assert_same(self, other: Trace) -> None:
        """Not a bit apart."""
        assert self.log == other.log
        assert (self.head, self.tokens, self.window) == (other.head, other.tokens, other.window)
        assert (self.logits is None) == (other.logits is None)
        assert self.logits is None or (other.logits is not None and torch.equal(self.logits, other.logits))
        assert same(self.state, other.state)

    def assert_near(self, other: Trace) -> None:
        """The same but for the rounding of logits."""
        assert self.log == other.log
        assert (self.head, self.tokens, self.window) == (other.head, other.tokens, other.window)
        assert (self.logits is None) == (other.logits is None)
        if self.logits is not None:
            assert_near(self.logits, other.logits)
        assert same(self.state, other.state)


def assert_whole(session: Session) -> None:
    """What holds of any session at any time: the head is what its log computes to, the window what is left of it."""
    state = session.state  # which first reads what the log holds
    assert same(session.replay(), state)
    log = events(session)
    assert [event.seq for event in log] == list(range(len(log)))
    marks = [event for event in log if event.kind != "tokens"]
    history = session.history()
    assert len(marks) == len(history) == session.stats().snapshots
    assert (history[-1] if history else None) == session.head
    stop = int(str(marks[-1].data["stop"])) if marks else 0
    stream = stream_of(session)
    pinned = session.stats().pinned_tokens
    assert session.window.ids[pinned:] == stream[stop:]
    assert session.tokens == len(stream)
    assert session.window_tokens == pinned + len(stream) - stop <= WINDOW


def rig(monkeypatch: pytest.MonkeyPatch, *turns: Sequence[int]) -> None:
    """Makes the model say these tokens, whatever its logits: an untrained one would never call a tool."""
    script = [token for turn in turns for token in turn]
    monkeypatch.setattr(Sampling, "pick", lambda self, logits, generator: script.pop(0))


def says(memory: SleepMemory, text: str) -> list[int]:
    """The tokens of an assistant's turn, as it would write them."""
    return memory.chat.message("assistant", text)[1:]


def calls(memory: SleepMemory, name: str, /, **arguments: Any) -> list[int]:
    """The tokens of a tool call, as the model would write them."""
    return memory.chat.call(ToolCall(name, arguments))[1:]


def child(*arguments: object) -> subprocess.Popen[str]:
    """`tests/memory/child.py` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.memory.child", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
