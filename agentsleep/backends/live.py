"""The open window of a session: its tokens, their keys and values, and the state that runs along awake."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Cache

from agentsleep.backends.backend import Backend
from agentsleep.backends.cache import POSITION, open_cache
from agentsleep.backends.hybrid import reading
from agentsleep.state import FastWeights


class LiveWindow:
    """Reads tokens awake, one ordinary pass each, from the state that the window opened with.

    The state in here is a scratch pad: what a sleep stores is computed again from ``opened``, in one canonical forward.
    """

    def __init__(self, backend: Backend, opened: FastWeights) -> None:
        self.backend = backend
        self.opened = opened
        self.ids: list[int] = []
        self.logits: Tensor | None = None  # [vocab], behind the last token read
        self._cache = open_cache(backend.config, opened.to(backend.device))
        self._position = int(opened[POSITION]) if POSITION in opened else 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def free(self) -> int:
        """Tokens that still fit."""
        return self.backend.settings.window - len(self.ids)

    def read(self, ids: Sequence[int]) -> None:
        """Reads tokens, at most ``free`` of them."""
        if not ids:
            return
        assert len(ids) <= self.free, "a session sleeps before its window overflows"
        self.logits = _forward(self.backend, self._cache, ids, self._position + len(self.ids))
        self.ids += ids

    def sleep(self, passes: int, upto: int | None = None) -> FastWeights:
        """What the window, or its first ``upto`` tokens, leaves behind after ``passes`` passes; the window itself stays
        as it is."""
        return self.backend.consolidate(self.ids[:upto], self.opened, passes)

    def sleep_until(
        self, probes: Sequence[list[int]], max_passes: int, upto: int | None = None
    ) -> tuple[FastWeights, int, int]:
        """The same with as many passes as probes ask for, see :meth:`Backend.consolidate_until`."""
        return self.backend.consolidate_until(self.ids[:upto], self.opened, probes, max_passes)

    def fork(self) -> LiveWindow:
        """A window that goes on from here and leaves this one alone."""
        twin = copy.copy(self)
        twin.ids = [*self.ids]
        with torch.inference_mode():
            twin._cache = copy.deepcopy(self._cache)
        return twin


def logits_after(backend: Backend, opened: FastWeights, ids: Sequence[int]) -> Tensor:
    """Logits ``[vocab]`` behind some tokens, at most a window of them, read in a window of their own."""
    cache = open_cache(backend.config, opened.to(backend.device))
    return _forward(backend, cache, ids, int(opened[POSITION]) if POSITION in opened else 0)


def _forward(backend: Backend, cache: Cache, ids: Sequence[int], where: int) -> Tensor:
    """Reads tokens from position ``where`` on; the cache takes them in. Logits behind the last one."""
    with torch.inference_mode():
        out = backend.model(
            input_ids=backend.row(ids),
            use_cache=True,
            logits_to_keep=1,
            **reading(cache, 1, len(ids), where, backend.device),
        )
    logits: Tensor = out.logits[0, -1]
    return logits
