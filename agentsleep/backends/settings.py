"""How a model is to sleep, as its config says: the ``sleep_*`` fields that travel with a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from agentsleep.errors import SettingsError
from agentsleep.sleep import check_depth

FEEDBACKS = ("norm+embed", "norm", "hidden", "tokens")
EVICTIONS = ("hard", "sliding")
PINS = ("system", "tools")
LONGEST = 2048  # tokens of a window where nothing says how long it is; the paper's largest


@dataclass(frozen=True, kw_only=True)
class SleepSettings:
    """Read from ``config.sleep_window`` and so on; a model that was never trained to sleep has none of them.

    Args:
        window: L, the tokens that a window holds.
        passes: N of a light sleep.  rounds: readings of each window in a deep sleep.
        feedback: what the next pass is fed: ``hidden`` (the residual stream behind the last looped block; the paper's
            form), ``norm`` (through the final norm), ``norm+embed`` (and the embedding added), or ``tokens`` (the same
            tokens read again).
        loop: first and last block, counted from 0, that passes 2 to N run through; None for all.
        eviction: ``hard`` drops all keys; ``sliding`` keeps those of the last ``tail`` tokens for the next window.
        pin: what is read again at the head of every window.
        trained: whether the checkpoint has settings of its own.

    Raises:
        SettingsError: a value out of its range.
    """

    window: int
    passes: int = 1
    rounds: int = 1
    feedback: str = "hidden"
    loop: tuple[int, int] | None = None
    eviction: str = "hard"
    tail: int = 0
    pin: tuple[str, ...] = PINS
    trained: bool = True

    def __post_init__(self) -> None:
        check_depth(self.passes, self.rounds)
        for name, value, least in (("window", self.window, 2), ("tail", self.tail, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise SettingsError(f"sleep_{name} is {value!r}; it must be a whole number of at least {least}")
        for name, chosen, known in (("feedback", self.feedback, FEEDBACKS), ("eviction", self.eviction, EVICTIONS)):
            if chosen not in known:
                raise SettingsError(f"sleep_{name} {chosen!r} is not one of {known}")
        if unknown := sorted(set(self.pin) - set(PINS)):
            raise SettingsError(f"sleep_pin has {unknown}; there are {PINS}")
        if (self.eviction == "sliding") != (self.tail > 0):
            raise SettingsError(
                f"sleep_eviction is {self.eviction!r} and sleep_tail {self.tail}; 'sliding' keeps a tail of at least "
                "one token, 'hard' keeps none"
            )

    @classmethod
    def of(cls, config: PreTrainedConfig) -> SleepSettings:
        """The settings of a checkpoint.

        Raises:
            SettingsError: one of them is out of its range.
        """
        given: dict[str, Any] = {}
        for name in ("window", "passes", "rounds", "feedback", "loop", "eviction", "tail", "pin"):
            value = getattr(config, f"sleep_{name}", None)
            if value is not None:
                given[name] = tuple(value) if isinstance(value, list) else value
        trained = "window" in given
        if config.model_type == "nap" and given.get("eviction") == "sliding":
            given["tail"] = given["window"] - 1
        given.setdefault("window", min(getattr(config, "max_position_embeddings", None) or LONGEST, LONGEST))
        return cls(**given, trained=trained)

    def check_loop(self, blocks: int) -> range:
        """The blocks that passes 2 to N run through.

        Raises:
            SettingsError: blocks that the model does not have.
        """
        if self.loop is None:
            return range(blocks)
        first, last = self.loop
        if not 0 <= first <= last < blocks:
            raise SettingsError(f"sleep_loop is {self.loop}; it must be two of the blocks 0 to {blocks - 1}, in order")
        return range(first, last + 1)
