"""A model under test: loaded once, and made to sleep in several ways."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agentsleep.backends import Backend, LiveWindow, load_backend
from agentsleep.backends.hybrid import HybridBackbone
from agentsleep.chat import ChatFormat, chat_of
from agentsleep.errors import UntrainedSleep
from agentsleep.memory import Session, SleepMemory
from agentsleep.policy import SleepPolicy
from agentsleep.state import FastWeights

SYSTEM = "you watch the rota ."
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Tells to whom a person hands over.",
        "parameters": {"type": "object", "properties": {"person": {"type": "string"}}, "required": ["person"]},
    },
}
_PEOPLE = ("bob", "alice", "dave", "erin", "frank", "grace", "heidi")
_EXACT, _COARSE = 1e-4, 0.15  # of the largest logit, in fp32 and in 16 bits; as the capability probe allows


class Lent(SleepMemory):
    """A memory on a model that is loaded already; its archive is thrown away.

    Raises:
        CheckpointDamaged: the model's tokenizer cannot speak.
    """

    def __init__(self, backend: Backend, policy: SleepPolicy | None = None) -> None:
        super().__init__(backend, archive=":memory:", policy=policy or SleepPolicy(trigger=None), retention=None)


class Subject:
    """What the checks of the suite are given.

    Args:
        place: where the model came from, to load it again in other numbers.
        backend: the model.
    """

    def __init__(self, place: str | Path | None, backend: Backend) -> None:
        self.place, self.backend = place, backend

    @classmethod
    def load(
        cls,
        place: str | Path | None,
        *,
        settings: Mapping[str, Any] | None = None,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> Subject:
        """Loads a model, also one whose memory would be wrong: that is for the suite to find.

        Raises:
            ModelError, SettingsError: as :func:`agentsleep.backends.load_backend`.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UntrainedSleep)
            return cls(place, load_backend(place, settings=settings, device=device, dtype=dtype, refuse=False))

    @property
    def stock(self) -> HybridBackbone | None:
        """The backbone of a model of transformers; None for our own."""
        return self.backend.backbone if isinstance(self.backend.backbone, HybridBackbone) else None

    @property
    def tolerance(self) -> float:
        """The largest error that is allowed, relative to the largest logit."""
        return _EXACT if self.backend.model.dtype in (torch.float32, torch.float64) else _COARSE

    @property
    def chat(self) -> ChatFormat:
        """How the model is spoken to."""
        return chat_of(self.backend.tokenizer)

    def line(self, i: int) -> str:
        """A sentence, another one for every i."""
        return f"{_PEOPLE[i % 7]} hands over to {_PEOPLE[(3 * i + 1) % 7]} {i % 10} ."

    def window(self, pinned: int = 0) -> int:
        """A small window: at least twice what is pinned, and six messages besides it."""
        longest = max(len(self.chat.message("user", self.line(i))) for i in range(10))
        return max(48, 2 * pinned, pinned + 6 * longest)

    def ids(self, count: int, seed: int = 0) -> list[int]:
        """Token ids drawn at random."""
        draw = torch.Generator().manual_seed(seed)
        return [int(token) for token in torch.randint(0, len(self.backend.tokenizer), (count,), generator=draw)]

    def sleeping(self, **settings: Any) -> Backend:
        """The same model, which sleeps otherwise; with two passes and a small window, unless told.

        Raises:
            SettingsError: a setting out of its range.
        """
        found = replace(self.backend.settings, **{"window": self.window(), "passes": 2, **settings})
        backbone = self.backend.backbone if self.stock is None else HybridBackbone(self.backend.model, found)
        made = replace(self.backend, backbone=backbone, settings=found)
        vars(made)["fingerprint"] = self.backend.fingerprint  # of the same weights; it takes long for a large model
        return made

    def memory(self, policy: SleepPolicy | None = None, **settings: Any) -> Lent:
        """A memory whose sessions sleep so; by default only when a window overflows."""
        return Lent(self.sleeping(**settings), policy)


def apart(one: Tensor | None, other: Tensor | None) -> float:
    """The largest difference of logits, relative to the largest of them, if that is above 1."""
    assert one is not None
    assert other is not None
    scale = max(1.0, float(other.float().abs().max()))
    return float((one.float() - other.float()).abs().max()) / scale


def states_apart(one: FastWeights, other: FastWeights) -> float:
    """The norm of the difference of recurrent states, relative to the norm of ``other``."""
    between = {name: one[name].float() - other[name].float() for name in other.only("recurrent")}
    return FastWeights(between).norm() / max(other.norm(), 1e-30)


def bit_equal(one: FastWeights, other: FastWeights) -> bool:
    """Whether not a bit is different."""
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def read(backend: Backend, state: FastWeights, ids: Sequence[int], *cuts: int) -> LiveWindow:
    """A window opened with a state that has read tokens in pieces: so many, so many, ..., and the rest."""
    window, rest = LiveWindow(backend, state), list(ids)
    for cut in (*cuts, len(ids)):
        window.read(rest[:cut])
        rest = rest[cut:]
    return window


def flaw(session: Session) -> str | None:
    """What is wrong with a session, None if nothing: its state is what its log computes to, bit for bit, its window
    what the log holds behind the last sleep, and no event of the log is missing."""
    state = session.state
    if not bit_equal(session.replay(), state):
        return "the state computed from the event log is not bit-equal to the session's"
    log = session._archive.events(session.id)
    if [event.seq for event in log] != list(range(len(log))):
        return "the event log has gaps"
    marks = [event for event in log if event.kind != "tokens"]
    stream = [token for event in log for token in event.token_ids]
    stop = int(str(marks[-1].data["stop"])) if marks else 0
    if len(marks) != len(session.history()):
        return f"the log has {len(marks)} sleeps, the history {len(session.history())} snapshots"
    if session.window.ids[session.stats().pinned_tokens :] != stream[stop:]:
        return "the open window does not hold what the log has behind the last sleep"
    return None
