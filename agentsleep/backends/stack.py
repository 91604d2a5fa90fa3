"""The blocks of a transformers model, each behind a door: entered with other hidden states, passed by, or listened to.

transformers has no call for "blocks 4 to 11 alone, from these hidden states, without the final norm". Here the forward
of every block asks a plan first; without one it does what it always did. The plan belongs to the calling thread, so
that several sessions may read with one model at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from agentsleep.errors import UnsupportedModel


@dataclass
class Plan:
    """What one forward is to do.

    run: the blocks that run, ``range``; the others hand on what they are given.
    enter: the hidden states ``[B, T, D]`` that the first block is entered with; None for those of the model.
    left: hidden states behind the last block, before the final norm; filled in by the forward.
    """

    run: range
    enter: Tensor | None = None
    left: Tensor | None = None


@dataclass
class _Door:
    """Where a block stands, and what it returns besides hidden states; None: it returns these alone."""

    index: int
    last: bool
    beside: tuple[None, ...] | None = None


_plan: ContextVar[Plan | None] = ContextVar("plan", default=None)


class BlockStack:
    """The blocks of a model.

    Args:
        base: the model without its head: it has a list ``layers`` that its forward goes through once, in order.

    Raises:
        UnsupportedModel: there is no such list, or the forward does not go through it.
    """

    def __init__(self, base: nn.Module) -> None:
        layers = getattr(base, "layers", None)
        if not isinstance(layers, nn.ModuleList) or not len(layers):
            raise UnsupportedModel(
                f"{type(base).__name__} has no list of blocks called 'layers', so its passes cannot be looped; "
                "use a model that is built as transformers' decoders are"
            )
        self.length = len(layers)
        for index, layer in enumerate(layers):
            if not hasattr(layer, "_agentsleep_door"):
                layer._agentsleep_door = _Door(index, index == self.length - 1)  # type: ignore[assignment]
                kind = type(layer)  # a class, not an instance's forward: a copy of the model must run its own weights
                names = {"__module__": kind.__module__, "__doc__": kind.__doc__, "forward": _behind_door(kind.forward)}
                layer.__class__ = type(kind.__name__, (kind,), names)
        with torch.no_grad(), self.going(Plan(range(self.length))):  # so that every block has shown what it returns
            base(input_ids=torch.zeros(1, 1, dtype=torch.long, device=next(base.parameters()).device), use_cache=False)

    @contextmanager
    def going(self, plan: Plan) -> Iterator[Plan]:
        """Forwards inside follow the plan.

        Raises:
            UnsupportedModel: the forward never came to the blocks.
        """
        token = _plan.set(plan)
        try:
            yield plan
        finally:
            _plan.reset(token)
        if plan.left is None:
            raise UnsupportedModel("the model's forward did not go through its blocks; it cannot be looped")


def _behind_door(forward: Callable[..., Any]) -> Callable[..., Any]:
    def entered(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        plan = _plan.get()
        if plan is None:
            return forward(self, *args, **kwargs)
        door: Any = self._agentsleep_door
        if door.index == 0 and plan.enter is not None:
            if args:
                args = (plan.enter, *args[1:])
            else:
                kwargs["hidden_states"] = plan.enter
        if door.index in plan.run:
            given = forward(self, *args, **kwargs)
            door.beside = (None,) * (len(given) - 1) if isinstance(given, tuple) else None
        else:
            hidden = args[0] if args else kwargs["hidden_states"]
            given = hidden if door.beside is None else (hidden, *door.beside)
        if door.last:
            plan.left = given[0] if isinstance(given, tuple) else given
        return given

    return entered
