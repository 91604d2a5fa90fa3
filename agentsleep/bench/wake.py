"""What waking costs after a short and after a long history, both read through sessions with an archive on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from agentsleep.errors import SettingsError
from agentsleep.memory import Session, SleepMemory
from agentsleep.policy import SleepPolicy
from agentsleep.sleep import check_depth
from agentsleep.tasks import rota

THREAD = "wake"
TURN = 16  # tokens that are written in one timed turn
FILLS = 3  # a turn follows 1, 2, 3, 1, ... messages in its window
WARM = 2  # turns before any is counted
SENTENCES = 12  # of a message of the history
HOT = 1e6  # temperature: words are drawn evenly, so that hardly any turn ends early
BARS = {"ratio": 1.10, "add_ratio": 1.2, "reopen_ratio": 1.2}
_READING = 0.8  # of the time


@dataclass
class Side:
    """One history: its session, and the seconds that were measured on it."""

    history: int
    memory: SleepMemory
    session: Session
    read_seconds: float = 0.0
    read_tokens: int = 0
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"token": [], "add": [], "reopen": [], "sleep": []})

    def median_ms(self, what: str) -> float:
        """Milliseconds."""
        return 1000 * median(self.seconds[what])


def bench_wake(
    model: str | Path | None = None,
    *,
    history: Sequence[int] = (1_000, 100_000),
    tokens: int = 600,
    passes: int = 1,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Reads histories of rota facts and small talk, then times what is done awake after them, in turn.

    Each history has a session and a database file of its own; the weights are shared, so that no side has luckier
    addresses. In a turn both windows are slept on, read the same messages, are closed and opened again, and write
    some tokens; each step is taken on one side right after the other, and who begins alternates. So both windows hold
    equally many tokens at every step. Medians count.

    Args:
        model: a checkpoint directory; None takes the shipped model.
        history: tokens to read before, at least two different numbers.
        tokens: at least so many are written on each side.
        passes: N of the sleeps while the history is read; waking does not depend on it.
        seed: of the texts.
        progress: called with the part that is done, 0 to 1.

    Returns:
        ``{"rows", "ratio", "add_ratio", "reopen_ratio", "sleep_ratio", "state_bytes_equal", "bars", "model",
        "fingerprint", "window", "passes", "tokens", "threads"}``. A row is ``{"history_tokens", "ms_per_token",
        "state_bytes", "add_ms", "reopen_ms", "sleep_ms", "read_tokens", "read_seconds", "archive_bytes"}``, where
        read_tokens were really read before the first measurement. Ratios are the longest history's over the shortest's.

    Raises:
        SettingsError: a setting out of its range.
        CheckpointMissing, CheckpointDamaged: the model cannot be loaded.
        ArchiveFull: no space in the folder for temporary files; 100,000 tokens take about 60 MB.
    """
    _check(history, tokens, passes, seed)
    report = progress or (lambda part: None)
    with TemporaryDirectory(prefix="agentsleep-wake-") as folder:
        sides: list[Side] = []
        # A sleep falls where it is asked for, or where a window overflows: never into a timed step.
        policy = SleepPolicy(trigger=None, passes=passes)

        def connect(number: int) -> SleepMemory:
            memory = SleepMemory(model, archive=Path(folder) / f"{number}.db", policy=policy)
            if sides:
                memory.backend, memory.chat = sides[0].memory.backend, sides[0].memory.chat
            return memory

        try:
            for number in history:
                memory = connect(number)
                sides.append(Side(number, memory, memory.session(THREAD, system=rota.SYSTEM)))
            done = 0
            for side in sides:
                for read in _read(side, seed):
                    report(_READING * (done + min(read, side.history)) / sum(history))
                done += side.history
            # Both begin with an empty write-ahead log: one that still grows is slower than one that is written over.
            for side in sides:
                side.session.close()
                side.memory.close()
                side.memory = connect(side.history)
                side.session = side.memory.session(THREAD, create=False)
            _measure(sides, tokens, seed, lambda part: report(_READING + (1 - _READING) * part))
            return _document(sides, tokens, passes, "nap-mini" if model is None else str(model))
        finally:
            for side in sides:
                side.session.close()
                side.memory.close()


def _check(history: Sequence[int], tokens: int, passes: int, seed: int) -> None:
    if len(set(history)) < 2 or len(set(history)) < len(history):
        raise SettingsError(f"history is {list(history)}; give at least two different numbers, such as 1000,100000")
    for name, value, least in (*(("history", n, 1) for n in history), ("tokens", tokens, 1), ("seed", seed, 0)):
        if value < least:
            raise SettingsError(f"{name} is {value}; it must be at least {least}")
    check_depth(passes)


def _texts(seed: int) -> Iterator[tuple[str, str]]:
    """Endless sentences with their roles: facts from the tool, small talk from the user."""
    rng = np.random.default_rng([seed, 0x77616B65])
    while True:
        person, other = rng.choice(len(rota.NAMES), 2, replace=False)
        yield "tool", rota.fact(rota.NAMES[person], rota.NAMES[other])
        yield "user", rota.SMALL_TALK[rng.integers(len(rota.SMALL_TALK))]


def _read(side: Side, seed: int) -> Iterator[int]:
    """Reads the history through ``add``; yields how many tokens were read so far."""
    began = time.perf_counter()
    texts = _texts(seed)
    while side.session.tokens < side.history:
        told = [next(texts) for _ in range(2 * SENTENCES)]
        for role in ("tool", "user"):
            side.session.add(role, " ".join(text for speaker, text in told if speaker == role))
        yield side.session.tokens
    side.read_tokens, side.read_seconds = side.session.tokens, time.perf_counter() - began


def _measure(sides: list[Side], tokens: int, seed: int, report: Callable[[float], None]) -> None:
    texts = _texts(seed + 1)
    written = turn = 0
    size = min(TURN, sides[0].memory.backend.settings.window // 4)
    while written < tokens:
        order = sides if turn % 2 else sides[::-1]
        counted = turn >= WARM
        _each(order, "sleep", lambda side: side.session.sleep(), counted)
        for _ in range(1 + turn % FILLS):
            role, text = next(texts)
            _each(order, "add", lambda side, role=role, text=text: side.session.add(role, text), counted)  # type: ignore[misc]
        _each(order, "reopen", _reopen, counted)
        if len({side.session.window_tokens for side in sides}) > 1:
            held = [side.session.window_tokens for side in sides]
            raise SettingsError(
                f"the windows hold {held} tokens and cannot be compared; use a model of a larger window"
            )
        lengths, taken = [], []
        for side in order:
            began = time.perf_counter()
            answer = side.session.generate(max_new_tokens=size, temperature=HOT, seed=turn)
            taken.append((time.perf_counter() - began) / answer.tokens)
            lengths.append(answer.tokens)
        if counted and min(lengths) == max(lengths):  # a turn that ended early on one side is no pair
            for side, seconds in zip(order, taken, strict=True):
                side.seconds["token"].append(seconds)
            written += lengths[0]
        turn += 1
        report(min(1.0, written / tokens))


def _each(order: Sequence[Side], what: str, step: Callable[[Side], object], counted: bool) -> None:
    for side in order:
        began = time.perf_counter()
        step(side)
        if counted:
            side.seconds[what].append(time.perf_counter() - began)


def _reopen(side: Side) -> None:
    side.session.close()
    side.session = side.memory.session(THREAD, create=False)


def _document(sides: Sequence[Side], tokens: int, passes: int, model: str) -> dict[str, Any]:
    rows = []
    for side in sides:
        path = side.memory.archive.path
        assert path is not None
        rows.append(
            {
                "history_tokens": side.history,
                "ms_per_token": side.median_ms("token"),
                "state_bytes": side.session.state.nbytes,
                "add_ms": side.median_ms("add"),
                "reopen_ms": side.median_ms("reopen"),
                "sleep_ms": side.median_ms("sleep"),
                "read_tokens": side.read_tokens,
                "read_seconds": side.read_seconds,
                "archive_bytes": sum(
                    file.stat().st_size for file in path.parent.glob(f"{path.name}*") if file.is_file()
                ),
            }
        )
    short, long = (choose(rows, key=lambda row: row["history_tokens"]) for choose in (min, max))
    ratios = {
        "ratio": long["ms_per_token"] / short["ms_per_token"],
        "add_ratio": long["add_ms"] / short["add_ms"],
        "reopen_ratio": long["reopen_ms"] / short["reopen_ms"],
        "sleep_ratio": long["sleep_ms"] / short["sleep_ms"],
    }
    bars = [
        {"bar": name, "most": most, "ratio": ratios[name], "passed": ratios[name] <= most}
        for name, most in BARS.items()
    ]
    return {
        "rows": rows,
        **ratios,
        "state_bytes_equal": len({row["state_bytes"] for row in rows}) == 1,
        "bars": bars,
        "model": model,
        "fingerprint": sides[0].memory.fingerprint,
        "window": sides[0].memory.backend.settings.window,
        "passes": passes,
        "tokens": tokens,
        "threads": torch.get_num_threads(),
    }
