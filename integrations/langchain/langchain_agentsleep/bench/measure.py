"""Lets every arm live through the same dialogues, counts what it knows, what it reads, and how long that takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from agentsleep.errors import SettingsError
from agentsleep.memory import SleepMemory
from agentsleep.models.nap import NapConfig
from agentsleep.reproduce.document import machine
from agentsleep.sleep import check_depth
from agentsleep.tasks import rota
from langchain_agentsleep.bench.arms import REPLY, WIDE, Arm, Table, arms
from langchain_agentsleep.bench.dialogues import Dialogue, draw, long_run
from langchain_agentsleep.bench.meter import Meter
from langchain_agentsleep.bench.outcomes import Asked, Took
from langchain_agentsleep.bench.report import accuracy_rows, bars, cost_rows

_VERSIONS = ("langchain-agentsleep", "langchain", "langchain-core", "langgraph", "bm25s")
_KNOWING = 0.75  # of the time


def bench_agent(
    model: str | Path | None = None,
    *,
    passes: Sequence[int] = (1, 2, 4),
    dialogues: int = 34,
    questions: int = 6,
    depths: Sequence[int] = (1, 2, 3, 4, 5, 6),
    people: int = 12,
    turns: int = 100,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Measures sleep against trimming, summaries, retrieval and full context: same weights, same window, one run.

    Accuracy: in each dialogue a rota is explored; small talk follows until no fact is left in a list that fits the
    window; then each question is asked by itself, and not remembered. Cost: one long conversation of real agent turns,
    each taken by one arm after the other; who begins changes from turn to turn, and medians count.

    Args:
        model: a checkpoint of rota; None takes the shipped model.
        passes: N of the arms that sleep.
        dialogues: fresh rotas.  questions: of each depth, in each dialogue, about the same people at every depth.
        turns: of the long conversation.
        progress: called with the part that is done, 0 to 1.

    Returns:
        ``{"task", "model", "fingerprint", "window", "wide_window", "reply", ... settings, "arms", "accuracy", "costs",
        "bars", "fillers", "threads", "machine", "notes"}``; rows as :mod:`langchain_agentsleep.bench.report` has them.

    Raises:
        SettingsError: a setting out of its range, a model of another kind, or bm25s is not installed.
        CheckpointMissing, CheckpointDamaged: the model cannot be loaded.
        AgentsleepError: a fact was still in the list of an agent that sleeps.
    """
    _check(passes, dialogues, questions, depths, people, turns, seed)
    report = progress or (lambda part: None)
    table = Table()
    with arms(model, passes, table) as (memory, ways):
        _check_model(memory)
        told = [_drawn(memory, seed, i, people, depths, questions) for i in range(dialogues)]
        asked = _knowing(ways, told, lambda part: report(_KNOWING * part))
        took = _taking(memory, ways, table, turns, seed, lambda part: report(_KNOWING + (1 - _KNOWING) * part))
        backend, fingerprint = memory.backend, memory.fingerprint
    names = [{"arm": way.name, "what": way.what} for way in ways]
    accuracy, costs = accuracy_rows(asked), cost_rows(took)
    return {
        "task": "rota",
        "model": "nap-mini" if model is None else str(model),
        "fingerprint": fingerprint,
        "parameters": backend.model.num_parameters(),
        "window": backend.settings.window,
        "wide_window": WIDE,
        "reply": REPLY,
        "passes": list(passes),
        "dialogues": dialogues,
        "questions": dialogues * questions,
        "depths": list(depths),
        "people": people,
        "turns": turns,
        "seed": seed,
        "fillers": {"least": min(len(one.fillers) for one in told), "most": max(len(one.fillers) for one in told)},
        "arms": names,
        "accuracy": accuracy,
        "costs": costs,
        "bars": bars(asked, costs, max(passes)),
        "threads": torch.get_num_threads(),
        "machine": machine() | {name: version(name) for name in _VERSIONS},
        "notes": [
            "the model was trained on windows of this length that are slept on and dropped; on the whole list in one "
            "window (full context) it was never trained",
            "it was never taught to summarise",
            "the list of an arm without sleep is read anew in every call of the model; a cache of prefixes would spare "
            "full context most of it, and keep keys and values of the whole list instead",
            "ms of the arms that sleep include their archive, an SQLite database in memory; the others have none",
        ],
    }


def _check(
    passes: Sequence[int], dialogues: int, questions: int, depths: Sequence[int], people: int, turns: int, seed: int
) -> None:
    if not passes or not depths:
        raise SettingsError("no passes or no depths to measure; give at least one of each")
    for n in passes:
        check_depth(n)
    for name, value, least in (("dialogues", dialogues, 1), ("turns", turns, 2), ("seed", seed, 0)):
        if value < least:
            raise SettingsError(f"{name} is {value}; it must be at least {least}")
    if not 1 <= questions <= people:
        raise SettingsError(f"questions is {questions}; it must lie in 1..{people}, one person each")
    if not all(1 <= depth <= rota.MAX_DEPTH for depth in depths):
        raise SettingsError(f"depths are {list(depths)}; the vocabulary has 1..{rota.MAX_DEPTH}")
    try:
        import bm25s  # noqa: F401  # known before the minutes of work, not after them
    except ImportError:
        raise SettingsError("bm25s is not installed; pip install 'langchain-agentsleep[bench]'") from None


def _check_model(memory: SleepMemory) -> None:
    kind = memory.backend.config.model_type
    if kind != NapConfig.model_type or memory.backend.tokenizer.get_vocab() != rota.tokenizer().get_vocab():
        raise SettingsError(f"the model is a {kind} that does not speak rota's English; give a checkpoint of rota")


def _drawn(memory: SleepMemory, seed: int, index: int, people: int, depths: Sequence[int], questions: int) -> Dialogue:
    chat = memory.chat
    noted = len(chat.message("assistant", rota.NOTED))
    return draw(
        seed,
        index,
        people=people,
        depths=depths,
        per_depth=questions,
        window=memory.backend.settings.window,
        length=lambda text: len(chat.message("user", text)) + noted,
    )


def _knowing(ways: Sequence[Arm], told: Sequence[Dialogue], report: Callable[[float], None]) -> list[Asked]:
    asked = []
    for number, dialogue in enumerate(told):
        for place, way in enumerate(ways):
            said = way.answers(dialogue, f"dialogue {number}")
            asked += [
                Asked(way.name, number, question.depth, answer == question.answer)
                for question, answer in zip(dialogue.questions, said, strict=True)
            ]
            report((number + (place + 1) / len(ways)) / len(told))
    return asked


def _taking(
    memory: SleepMemory,
    ways: Sequence[Arm],
    table: Table,
    turns: int,
    seed: int,
    report: Callable[[float], None],
) -> list[Took]:
    took = []
    ways = [way for way in ways if way.converses]
    with Meter(memory.backend, memory.chat).counting() as meter:
        for step in long_run(seed, turns):
            table.episode = step.episode
            first = step.number % len(ways)
            for way in (*ways[first:], *ways[:first]):
                before, calls, began = meter.tokens, table.calls, time.perf_counter()
                listed = len(way.turn(step.text))
                seconds = time.perf_counter() - began
                read, called = meter.tokens - before, table.calls - calls
                took.append(Took(way.name, step.number, step.kind, seconds, read, called, listed))
            report((step.number + 1) / turns)
    return took
