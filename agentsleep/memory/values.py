"""What a session hands out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from agentsleep.archive import Hit
from agentsleep.chat import ToolCall
from agentsleep.gauge import Saturation


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model said, from the state for reasoning; :attr:`sources` has the text for proof.

    text: empty where it called tools instead: ``calls``, of which ``call`` is the first.
    thought: what it wrote between thinking markers, where its chat format knows them.
    snapshot: id of the newest archived state that the answer rests on; None before the first sleep.
    tokens: how many tokens it wrote.  finished: False when ``max_new_tokens`` cut it off.
    warning: what was wrong with a tool call that could not be read.
    event: seq of the turn in the session's log; None where it is in none.
    """

    text: str
    snapshot: str | None
    tokens: int
    finished: bool = True
    call: ToolCall | None = None
    calls: tuple[ToolCall, ...] = ()
    thought: str | None = None
    warning: str | None = None
    event: int | None = field(default=None, compare=False)
    find_sources: Callable[[], tuple[Hit, ...]] = field(default=tuple, repr=False, compare=False)

    @cached_property
    def sources(self) -> tuple[Hit, ...]:
        """Messages of the log that share words with the question and the answer, the best first. They are searched for
        when they are first asked for; nothing in the network tells them, so they support an answer and prove nothing.

        Raises:
            ArchiveError: the archive is closed, or cannot be read.
        """
        return self.find_sources()

    def __post_init__(self) -> None:
        if self.call is not None and not self.calls:
            object.__setattr__(self, "calls", (self.call,))

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True)
class SleepStarted:
    """A session begins to sleep.

    tokens: that are slept on; in a light sleep without the pinned ones, in a deep one with those of each window.
    passes: None where probes decide.  rounds: of a deep sleep.
    mode: "light" or "deep".  trigger: why it sleeps.
    """

    session: str
    mode: str
    trigger: str
    tokens: int
    passes: int | None
    rounds: int = 1


@dataclass(frozen=True, kw_only=True)
class SleepFinished:
    """The sleep is in the archive. ms: that computing it took.  snapshot: its id."""

    session: str
    mode: str
    trigger: str
    tokens: int
    passes: int
    rounds: int
    ms: float
    snapshot: str


SleepListener = Callable[[SleepStarted | SleepFinished], None]


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a session stands.

    head: id of the newest snapshot.  events, tokens: in the log.  slept_on: tokens of the log that lie before the open
    window, all of them consolidated.  pinned_tokens: at the window's head; they count in none of the others.
    """

    head: str | None
    events: int
    tokens: int
    slept_on: int
    pinned_tokens: int


@dataclass(frozen=True, kw_only=True)
class Stats:
    """A session in numbers. ``window_tokens`` counts what the open window holds, pinned text included; ``tokens`` what
    was ever said in the session; ``state_bytes``, ``norm`` and ``saturation`` describe the fast weights that the window
    opened with.

    snapshots: sleeps that these fast weights descend from, ``deep_sleeps`` of them deep, the others light.
    passes: passes over windows in all these sleeps; a deep sleep makes ``passes`` times ``rounds`` over each window.
    """

    window_tokens: int
    window_capacity: int
    pinned_tokens: int
    tokens: int
    snapshots: int
    state_bytes: int
    norm: float
    deep_sleeps: int
    passes: int
    saturation: Saturation

    @property
    def light_sleeps(self) -> int:
        """Sleeps on an open window."""
        return self.snapshots - self.deep_sleeps
