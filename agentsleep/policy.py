"""When to sleep, how deep, and what stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from agentsleep.errors import SettingsError

Unit = Literal["tokens", "messages", "fraction"]
Clause: TypeAlias = "tuple[Unit, float]"
Trigger: TypeAlias = "Clause | Mapping[Unit, float] | Sequence[Clause | Mapping[Unit, float]] | None"

_UNITS = ("tokens", "messages", "fraction")


@dataclass(frozen=True, kw_only=True)
class SleepPolicy:
    """When a session sleeps by itself.

    Args:
        trigger: sleep once the window holds this much: ``("fraction", 0.9)`` of its tokens, ``("tokens", 80)`` or
            ``("messages", 12)``. A list means *or*, a dict means *and*. None: only when the window would overflow,
            which always makes a session sleep.
        passes: N of each sleep; None takes the model's own setting.
        max_windows: a message that would fill more windows than this is refused.

    Raises:
        SettingsError: a value out of its range.
    """

    trigger: Trigger = ("fraction", 0.9)
    passes: int | None = None
    max_windows: int = 64

    def __post_init__(self) -> None:
        for clause in _clauses(self.trigger):
            for unit, amount in clause.items():
                _check(unit, amount)
        if self.passes is not None and (isinstance(self.passes, bool) or self.passes < 1):
            raise SettingsError(f"passes is {self.passes}; it must be at least 1 (1 is the ordinary pass)")
        if self.max_windows < 1:
            raise SettingsError(f"max_windows is {self.max_windows}; it must be at least 1")

    def due(self, *, tokens: int, messages: int, window: int) -> bool:
        """Whether a window of ``window`` tokens that holds these tokens and messages is to be slept on."""
        held = {"tokens": tokens, "messages": messages, "fraction": tokens / window}
        return any(all(held[unit] >= amount for unit, amount in c.items()) for c in _clauses(self.trigger) if c)


def _clauses(trigger: Trigger) -> list[dict[str, float]]:
    """The trigger as a list (or) of dicts (and)."""
    if trigger is None:
        return []
    if isinstance(trigger, Mapping):
        return [{str(unit): amount for unit, amount in trigger.items()}]
    if isinstance(trigger, tuple) and len(trigger) == 2 and isinstance(trigger[0], str):
        return [{str(trigger[0]): trigger[1]}]  # type: ignore[dict-item]
    if isinstance(trigger, Sequence) and not isinstance(trigger, str):
        return [clause for part in trigger for clause in _clauses(part)]  # type: ignore[arg-type]
    raise SettingsError(f'trigger {trigger!r} is not of the form ("fraction", 0.9), a list or a dict of such')


def _check(unit: str, amount: object) -> None:
    if unit not in _UNITS:
        raise SettingsError(f"trigger unit {unit!r} is none of {_UNITS}")
    if isinstance(amount, bool) or not isinstance(amount, (int, float)) or amount <= 0:
        raise SettingsError(f"the trigger's amount of {unit} is {amount!r}; it must be a number above 0")
    if unit == "fraction" and amount > 1:
        raise SettingsError(f"a fraction of {amount} cannot be reached; it must lie in (0, 1]")
