"""The demonstration from beginning to end, without a word on how it is shown."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from agentsleep.demo.again import in_new_process
from agentsleep.demo.asking import Asked, ask_all
from agentsleep.demo.chart import draw_chart
from agentsleep.demo.conversation import Conversation, converse, snapshot_record, told_in
from agentsleep.demo.table import RotaTable
from agentsleep.demo.watching import Watcher
from agentsleep.errors import SettingsError
from agentsleep.evals.intervals import wilson
from agentsleep.memory import SleepMemory
from agentsleep.policy import SleepPolicy
from agentsleep.tasks import rota

TOLERANCE = 1e-5  # between logits before and after a restore
_STREAM = 0x64656D6F  # a seed means other episodes here than in training


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What is shown.

    Args:
        out: folder of everything that is left behind.
        archive: the database of the sessions; None puts ``memory.db`` into ``out``.
        model: a checkpoint directory; None takes the shipped model.
        people, seed: of the rota.
        depths: questions of depth 1 … depths.  starts: how many people each depth is asked about; None: all.
        light: passes of the light sleeps, one thread each.  deep: those of them that also sleep deep, in a fork.
        pace: seconds to wait after each turn of the agent.

    Raises:
        SettingsError: a value out of its range.
    """

    out: Path
    archive: Path | None = None
    model: Path | None = None
    seed: int = 0
    people: int = 12
    depths: int = 6
    starts: int | None = None
    light: tuple[int, ...] = (1, 2, 4)
    deep: tuple[int, ...] = (2, 4)
    pace: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.depths <= rota.MAX_DEPTH:
            raise SettingsError(f"depths is {self.depths}; it must lie in 1..{rota.MAX_DEPTH}")
        if not 1 <= self.per_depth <= self.people:
            raise SettingsError(f"starts is {self.starts}; it must lie in 1..{self.people}, the number of people")
        if self.seed < 0:
            raise SettingsError(f"seed is {self.seed}; it must be at least 0")
        if not self.light or not set(self.deep) <= set(self.light):
            raise SettingsError(f"deep sleeps {self.deep} continue light ones; choose them among {self.light}")

    @property
    def per_depth(self) -> int:
        """Questions of each depth."""
        return self.people if self.starts is None else self.starts


@dataclass(frozen=True)
class Condition:
    """A thread that was asked all questions. rounds: visits of every window in all; 1 is light sleep alone."""

    thread: str
    passes: int
    rounds: int
    asked: list[Asked]
    logits: Tensor

    @property
    def name(self) -> str:
        """As tables and charts call it."""
        return f"passes {self.passes}" + (" + deep sleep" if self.rounds > 1 else "")


@dataclass
class Demo:
    """A demonstration under way.

    Raises:
        SettingsError, ModelError, ArchiveError, OSError: the rota, the model, the archive or ``out`` cannot be used.
    """

    settings: DemoSettings
    watcher: Watcher
    conditions: list[Condition] = field(default_factory=list)
    conversations: list[Conversation] = field(default_factory=list)

    def __post_init__(self) -> None:
        s = self.settings
        rng = np.random.default_rng([s.seed, _STREAM])
        self.episode = rota.sample_episode(rng, s.people)
        starts = [self.episode.cycle[i] for i in rng.permutation(s.people)[: s.per_depth]]
        self.questions = [self.episode.ask(depth, person) for depth in range(1, s.depths + 1) for person in starts]
        s.out.mkdir(parents=True, exist_ok=True)
        self.archive = (s.archive or s.out / "memory.db").expanduser().resolve()

    def run(self) -> dict[str, Any]:
        """Everything in its order; the result is also in ``out``, as ``demo.json`` and ``accuracy.png``."""
        began = time.perf_counter()
        s = self.settings
        table = RotaTable(s.out / "rota.db", self.episode)
        with self._memory(s.light[0]) as memory:
            self.name = _free_name(memory)
            about = {"fingerprint": memory.fingerprint, "window": memory.backend.settings.window}
        for passes in s.light:
            with self._memory(passes) as memory:
                self._light(memory, passes, table)
                if passes in s.deep:
                    self._deep(memory, passes)
        # From here on this process has nothing but what was answered: the models and sessions above are gone.
        again = self._again()
        fork = self._fork()
        chart, saved = s.out / "accuracy.png", s.out / "demo.json"
        document: dict[str, Any] = {
            "model": str(s.model) if s.model else "nap-mini",
            **about,
            "seed": s.seed,
            "archive": str(self.archive),
            "people": s.people,
            "chance": 1 / (s.people - 1),
            "questions_per_depth": s.per_depth,
            "episode": {"cycle": self.episode.cycle, "order": self.episode.order},
            "conversations": [c.record() for c in self.conversations],
            "results": self._results(),
            "answers": [{"thread": c.thread, "name": c.name, **a.record()} for c in self.conditions for a in c.asked],
            "again": again,
            "fork": fork,
            "files": {"chart": str(chart), "document": str(saved), "table": str(table.path)},
        }
        draw_chart(document, chart)
        document["seconds"] = round(time.perf_counter() - began, 1)
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
        saved.write_text(text + "\n", encoding="utf-8")
        plain: dict[str, Any] = json.loads(text)
        return plain

    def _memory(self, passes: int) -> SleepMemory:
        return SleepMemory(self.settings.model, archive=self.archive, policy=SleepPolicy(passes=passes))

    def _light(self, memory: SleepMemory, passes: int, table: RotaTable) -> None:
        thread = f"{self.name}-passes-{passes}"
        self.watcher.chapter(f"The agent looks everybody up; each sleep takes {passes} pass{'es' * (passes > 1)}")
        done = converse(memory, thread, passes, self.episode, table, self.watcher, pace=self.settings.pace)
        self.conversations.append(done)
        self.watcher.remark(
            f"{done.tokens} tokens read in {len(done.snapshots)} windows, all slept on and evicted; tool calls that "
            f"the model made right by itself: {len(done.called)} of {self.settings.people}"
            + (f"; the other {len(done.handed)} facts were handed to it" if done.handed else "")
        )
        self._ask(memory, thread, passes, 1)

    def _deep(self, memory: SleepMemory, passes: int) -> None:
        source, thread = f"{self.name}-passes-{passes}", f"{self.name}-deep-{passes}"
        with memory.session(source, create=False) as session:
            head = session.head
        assert head is not None
        with memory.fork(head, thread) as session:
            slept = session.sleep(deep=True, passes=passes, rounds=1)
        assert slept is not None
        self.watcher.remark(
            f"{thread}: a fork of {source} slept deep: every window read again from the log, passes {passes}, "
            f"{slept.metrics['ms']:.0f} ms, snapshot {slept.id[:8]}"
        )
        self._ask(memory, thread, passes, 2)

    def _ask(self, memory: SleepMemory, thread: str, passes: int, rounds: int) -> None:
        with memory.session(thread, create=False) as session:
            answers, logits = ask_all(memory, session, [q.text for q in self.questions])
        asked = [Asked(q, answer) for q, answer in zip(self.questions, answers, strict=True)]
        self.conditions.append(Condition(thread, passes, rounds, asked, logits))
        right = sum(a.right for a in asked)
        self.watcher.remark(f"{thread}: {right} of {len(asked)} questions answered right, with every fact evicted")

    def _results(self) -> list[dict[str, Any]]:
        rows, asked = [], self.settings.per_depth
        for c in self.conditions:
            for depth in range(1, self.settings.depths + 1):
                right = sum(a.right for a in c.asked if a.question.depth == depth)
                low, high = wilson(right, asked)
                rows.append(
                    {
                        "passes": c.passes,
                        "rounds": c.rounds,
                        "depth": depth,
                        "accuracy": right / asked,
                        "interval": [low, high],
                        "questions": asked,
                        "name": c.name,
                        "thread": c.thread,
                    }
                )
        return rows

    def _again(self) -> dict[str, Any]:
        """A new process reopens every thread and is asked everything again."""
        self.watcher.chapter("A new process opens the archive and is asked again")
        texts = {c.thread: [a.question.text for a in c.asked] for c in self.conditions}
        reopened = in_new_process(self.archive, self.settings.model, texts)
        same, largest = 0, 0.0
        for c in self.conditions:
            same += sum(a.answer == other for a, other in zip(c.asked, reopened.answers[c.thread], strict=True))
            largest = max(largest, float((c.logits - reopened.logits[c.thread]).abs().max()))
        asked = len(self.conditions) * len(self.questions)
        self.watcher.remark(
            f"process {reopened.pid}: {same} of {asked} answers are the same; logits differ by at most {largest:g}"
        )
        return {
            "pid": reopened.pid,
            "threads": len(self.conditions),
            "questions": asked,
            "same_answers": same,
            "largest_logit_difference": largest,
            "tolerance": TOLERANCE,
            "equal": same == asked and largest <= TOLERANCE,
        }

    def _fork(self) -> dict[str, Any]:
        """An early snapshot, alive again: it knows what had been told by then, and nothing else."""
        told_by_then = max(self.conversations, key=lambda c: c.passes)
        history = told_by_then.snapshots
        snapshot = history[1] if len(history) > 3 else history[0]
        self.watcher.chapter(f"A fork of an early snapshot ({snapshot.id[:8]}) knows nothing that came later")
        thread = f"{self.name}-earlier"
        with self._memory(told_by_then.passes) as memory, memory.fork(snapshot, thread) as session:
            session.pin(tools=[])
            session.sleep()  # on the piece of a message that the snapshot had not consolidated, if there is one
            told = told_in(session, self.episode.order)
            questions = [self.episode.ask(1, person, told) for person in self.episode.order]
            answers, _ = ask_all(memory, session, [q.text for q in questions])
            tokens = session.tokens
        people = [
            {
                "person": q.chain[0],
                "told": q.chain[0] in told,
                "text": q.text,
                "expected": q.answer,
                "answer": answer,
                "right": answer == q.answer,
                "knows": answer == self.episode.successor(q.chain[0]),
            }
            for q, answer in zip(questions, answers, strict=True)
        ]
        before = _count([p for p in people if p["told"]])
        later = _count([p for p in people if not p["told"]])
        self.watcher.remark(
            f"told before the snapshot: {before['knows']} of {before['questions']} known; told later: "
            f"{later['knows']} of {later['questions']} known, {later['unknown']} answered '{rota.UNKNOWN}'"
        )
        return {
            "snapshot": snapshot_record(snapshot),
            "of": told_by_then.thread,
            "thread": thread,
            "tokens": tokens,
            "told_before": before,
            "told_later": later,
            "people": people,
        }


def _count(people: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {
        "questions": len(people),
        "knows": sum(p["knows"] for p in people),
        "unknown": sum(p["answer"] == rota.UNKNOWN for p in people),
    }


def _free_name(memory: SleepMemory) -> str:
    """``demo-1``, or the next number: an archive may hold earlier demonstrations."""
    taken = {"-".join(record.scope.thread.split("-")[:2]) for record in memory.sessions()}
    number = 1
    while f"demo-{number}" in taken:
        number += 1
    return f"demo-{number}"
