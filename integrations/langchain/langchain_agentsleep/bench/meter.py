"""Counts what really goes through a network: the tokens of every pass, those of sleeps apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from agentsleep.backends import Backend
from agentsleep.chat import ChatFormat
from agentsleep.memory.probing import TEXT


@dataclass(frozen=True)
class Tokens:
    """Tokens that were read. A token that is read again counts again.

    wake: read and written awake.  sleep: tokens times passes of sleeps.
    probe: of the fixed question that each archived state is asked, by which a restore is checked.
    """

    wake: int = 0
    sleep: int = 0
    probe: int = 0

    @property
    def all(self) -> int:
        """All of them."""
        return self.wake + self.sleep + self.probe

    def __sub__(self, other: Tokens) -> Tokens:
        return Tokens(self.wake - other.wake, self.sleep - other.sleep, self.probe - other.probe)


class Meter:
    """Counts at the doors of a model: its forward, which only waking goes through, and its first norm, which every pass
    goes through. All back ends that share the model are counted together."""

    def __init__(self, backend: Backend, chat: ChatFormat) -> None:
        self._model: Any = backend.model
        self._probe = [*chat.message("user", TEXT), *chat.prompt()][: backend.settings.window]
        self._passed = self._awake = self._probed = 0

    @property
    def tokens(self) -> Tokens:
        """Since it was made."""
        return Tokens(self._awake - self._probed, self._passed - self._awake, self._probed)

    @contextmanager
    def counting(self) -> Iterator[Meter]:
        """Counts inside."""
        hooks = [
            self._model.register_forward_pre_hook(self._read, with_kwargs=True),
            self._model.layers[0].norm_mixer.register_forward_pre_hook(self._pass),
        ]
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()

    def _read(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids: Tensor = kwargs["input_ids"]
        self._awake += ids.numel()
        if ids.shape[-1] == len(self._probe) and ids.reshape(-1).tolist() == self._probe:
            self._probed += ids.numel()

    def _pass(self, norm: nn.Module, args: tuple[Any, ...]) -> None:
        batch, length, _ = args[0].shape  # [B, T, D]
        self._passed += batch * length
