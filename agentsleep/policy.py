"""When to sleep, how deep, and what stays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from agentsleep.errors import SettingsError

Unit = Literal["tokens", "messages", "fraction"]
Clause: TypeAlias = "tuple[Unit, float]"
Passes: TypeAlias = 'int | Literal["auto"]'
Trigger: TypeAlias = "Clause | Mapping[Unit, float] | Sequence[Clause | Mapping[Unit, float]] | None"

_UNITS = ("tokens", "messages", "fraction")


@dataclass(frozen=True, kw_only=True)
class SleepPolicy:
    """When a session sleeps by itself.

    Args:
        trigger: sleep once the window holds this much: ``("fraction", 0.9)`` of its tokens, ``("tokens", 80)`` or
            ``("messages", 12)``. A list means *or*, a dict means *and*. None: only when the window would overflow,
            which always makes a session sleep.
        keep: what stays in the window when a session sleeps by itself: the last ``("messages", 2)``, or whole messages
            of at most ``("tokens", 40)`` or ``("fraction", 0.3)`` of the window. They are not slept on yet: the next
            window starts with them, read again, so each token is consolidated once. Never more than half of a window,
            and never all of it. None keeps nothing; a sleep that is asked for keeps nothing either.
        passes: N of each sleep; None takes the model's own setting; "auto" stops when a further pass leaves the answers
            to the probes as they were.
        max_passes: the most that "auto" makes; also N of a deep sleep's visits under "auto".
        probes: questions of the user that "auto" has answered after each pass.
        max_windows: a message that would fill more windows than this is refused.

    Raises:
        SettingsError: a value out of its range.
    """

    trigger: Trigger = ("fraction", 0.9)
    keep: Clause | None = None
    passes: Passes | None = None
    max_passes: int = 8
    probes: Sequence[str] = ()
    max_windows: int = 64

    def __post_init__(self) -> None:
        for clause in _clauses(self.trigger):
            if not clause:
                raise SettingsError("an empty dict is no trigger; name a unit and an amount, or use None")
            for unit, amount in clause.items():
                _check(unit, amount)
        if self.keep is not None:
            if not (isinstance(self.keep, tuple) and len(self.keep) == 2):
                raise SettingsError(f'keep is {self.keep!r}; it must be of the form ("messages", 2), or None')
            _check(*self.keep)
        if isinstance(self.probes, str) or not isinstance(self.probes, Sequence):
            raise SettingsError(f'probes is {self.probes!r}; it must be a sequence of texts, such as ("who ?",)')
        for probe in self.probes:
            if not isinstance(probe, str) or not probe.strip():
                raise SettingsError(f"the probe {probe!r} is no question; give a text that is not blank")
        object.__setattr__(self, "probes", tuple(self.probes))
        if self.passes == "auto":
            self.check_auto()
        elif self.passes is not None:
            _check_count("passes", self.passes)
        _check_count("max_passes", self.max_passes)
        _check_count("max_windows", self.max_windows)

    def check_auto(self) -> None:
        """Raises SettingsError where there are no probes by which passes="auto" could stop."""
        if not self.probes:
            raise SettingsError(
                'passes is "auto", but the policy has no probes to tell when to stop; give it questions, '
                'SleepPolicy(probes=("...",)), or a number of passes'
            )

    def due(self, *, tokens: int, messages: int, window: int) -> bool:
        """Whether a window of ``window`` tokens that holds these tokens and messages is to be slept on."""
        held = {"tokens": tokens, "messages": messages, "fraction": tokens / window}
        return any(all(held[unit] >= amount for unit, amount in clause.items()) for clause in _clauses(self.trigger))

    def kept(self, lengths: Sequence[int], *, window: int, room: int) -> int:
        """How many of the newest messages stay when a window is slept on.

        Args:
            lengths: tokens of the messages in the window, oldest first.
            window: tokens that a window holds.  room: tokens that it holds besides what is pinned.
        """
        if self.keep is None:
            return 0
        unit, amount = self.keep
        most = {"messages": room, "tokens": amount, "fraction": amount * window}[unit]
        count = tokens = 0
        for length in reversed(lengths[1:]):  # the oldest is slept on, else nothing would be
            tokens += length
            if tokens > min(most, room // 2) or (unit == "messages" and count >= amount):
                break
            count += 1
        return count


def _clauses(trigger: object) -> list[dict[str, float]]:
    """The trigger as a list (or) of dicts (and)."""
    if trigger is None:
        return []
    if isinstance(trigger, Mapping):
        return [dict(trigger)]
    if isinstance(trigger, tuple) and len(trigger) == 2 and isinstance(trigger[0], str):
        return [{trigger[0]: trigger[1]}]
    if isinstance(trigger, Sequence) and not isinstance(trigger, (str, bytes)):
        return [clause for part in trigger for clause in _clauses(part)]
    raise SettingsError(f'trigger {trigger!r} is not of the form ("fraction", 0.9), a list or a dict of such')


def _check(unit: object, amount: object) -> None:
    if unit not in _UNITS:
        raise SettingsError(f"trigger unit {unit!r} is none of {_UNITS}")
    number = isinstance(amount, (int, float)) and not isinstance(amount, bool) and math.isfinite(amount)
    if not number or not amount > 0:  # type: ignore[operator]
        raise SettingsError(f"the trigger's amount of {unit} is {amount!r}; it must be a number above 0")
    if unit == "fraction" and amount > 1:  # type: ignore[operator]
        raise SettingsError(f"a fraction of {amount} cannot be reached; it must lie in (0, 1]")


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SettingsError(f"{name} is {value!r}; it must be a whole number of at least 1")
