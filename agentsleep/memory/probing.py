"""Does a stored state come back alive? Asked of the model itself, on a fixed text."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from agentsleep.archive import JSON, Snapshot
from agentsleep.backends import Backend, logits_after
from agentsleep.chat import ChatFormat
from agentsleep.errors import SnapshotDamaged
from agentsleep.state import FastWeights

TEXT = "who comes 1 after alice ?"
TOP = 32

# Of the largest logit. A state in an equal environment speaks bit-equal; elsewhere sums are added up otherwise.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
_COARSE = 5e-2


class Prober:
    """Asks states of one model, and remembers what an empty memory says."""

    def __init__(self, backend: Backend, chat: ChatFormat) -> None:
        self._backend, self._chat = backend, chat

    def logits(self, state: FastWeights) -> Tensor:
        """Logits ``[vocab]`` behind the text as a user's message and the prompt of the answer, read from ``state``."""
        ids = [*self._chat.message("user", TEXT), *self._chat.prompt()]
        return logits_after(self._backend, state, ids[: self._backend.settings.window]).cpu().double()

    @cached_property
    def _empty(self) -> Tensor:
        return self.logits(FastWeights())

    @property
    def _tolerance(self) -> float:
        return _TOLERANCE.get(self._backend.model.dtype, _COARSE)

    def ask(self, state: FastWeights) -> dict[str, JSON]:
        """What a snapshot is to keep of its state's answer: the largest logits, and how far from an empty memory's."""
        spoken = self.logits(state)
        values, ids = spoken.topk(min(TOP, len(spoken)))
        return {
            "text": TEXT,
            "ids": ids.tolist(),
            "logits": values.tolist(),
            "difference": float((spoken - self._empty).abs().max()),
        }

    def check(self, snapshot: Snapshot, state: FastWeights) -> float:
        """How far a restored state speaks from an empty memory: the largest distance of a logit.

        Raises:
            SnapshotDamaged: it does not speak as it did when it was stored, or, where it did otherwise then, like an
                empty memory; its logits are not finite.
        """
        spoken = self.logits(state)
        back = f"restore its parent ({snapshot.parent or 'none'}), or let session.recover() compute it again"
        if not bool(torch.isfinite(spoken).all()):
            raise SnapshotDamaged(f"snapshot {snapshot.id} gives logits that are not finite; {back}")
        difference = float((spoken - self._empty).abs().max())
        limit = self._tolerance * float(self._empty.abs().max())
        kept: Any = snapshot.probe
        if not kept or kept["text"] != TEXT:
            return difference  # from before there were probes
        apart = float((spoken[kept["ids"]] - torch.tensor(kept["logits"], dtype=torch.float64)).abs().max())
        if not apart <= max(limit, self._tolerance * max(map(abs, kept["logits"]))):
            raise SnapshotDamaged(
                f"snapshot {snapshot.id} does not speak as it did when it was stored: a logit of {TEXT!r} is "
                f"{apart:.3g} away; {back}"
            )
        if kept["difference"] > limit and difference <= limit / 2:
            raise SnapshotDamaged(f"snapshot {snapshot.id} speaks like an empty memory; {back}")
        return difference
