"""One rota episode with the live agent: it looks people up, sleeps, and is asked once everything is evicted."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from agentsleep.archive import Event
from agentsleep.errors import SettingsError, SleepFailed, ToolError
from agentsleep.memory import Agent, Session, SleepMemory
from agentsleep.tasks import rota

MODES = ("fork", "sequence")
LEAST_WINDOWS = 3  # that the facts of an episode must lie in
_LIVE = 0x6C697665  # told apart by this, an evaluation never draws the episodes of a training run of the same seed
_REPLY = 8  # tokens: an answer is a name and an end; a model that babbles is cut off


class Asked(NamedTuple):
    """One question: how deep the sleep was, how it was asked, in how many windows its facts lay, what came of it."""

    passes: int
    rounds: int
    mode: str
    depth: int
    spread: int
    right: bool


@dataclass(frozen=True, kw_only=True)
class Lived:
    """An episode that the agent went through with one number of passes.

    requests: people that it was told to look up.  called: how many of them by exactly one right call, its own.
    windows: in how many of them the facts lay.
    """

    requests: int
    called: int
    windows: int
    asked: list[Asked]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What every episode of an evaluation has in common; episode ``index`` is the same in every process.

    per_depth: questions of each depth an episode, each about another person.
    """

    seed: int
    people: int
    depths: tuple[int, ...]
    per_depth: int
    passes: tuple[int, ...]
    rounds: tuple[int, ...]

    def draw(self, index: int) -> tuple[rota.Episode, list[rota.Question]]:
        """An episode and its questions, in the random order in which they are asked."""
        rng = np.random.default_rng([self.seed, _LIVE, index])
        episode = rota.sample_episode(rng, self.people)
        questions = [
            episode.ask(depth, episode.cycle[i])
            for depth in self.depths
            for i in rng.choice(self.people, self.per_depth, replace=False)
        ]
        return episode, [questions[i] for i in rng.permutation(len(questions))]


def live(
    memory: SleepMemory,
    episode: rota.Episode,
    questions: Sequence[rota.Question],
    *,
    thread: str,
    passes: int,
    rounds: Sequence[int],
) -> Lived:
    """One episode through the public calls of ``memory``, whose policy sleeps with ``passes``.

    The agent explores with its tool and sleeps on the last window. Then a fork of that state for each number of
    ``rounds``, which offers no tool: rounds beyond the first are a deep sleep. In mode "fork" every question is asked
    of the same state and leaves no trace; in mode "sequence" one after the other, each followed by a light sleep.

    Raises:
        SettingsError: the facts lie in fewer than three windows.
        SleepFailed: a sleep gave nothing usable, or left something in the window.
    """
    with memory.session(thread, system=rota.SYSTEM) as session:
        called = explore(session, episode)
        session.sleep()
        where = fact_windows(episode, session.archive.events(session.id))
        head = session.head
    windows = len(set(where.values()))
    if windows < LEAST_WINDOWS:
        raise SettingsError(
            f"the facts about {len(episode.order)} people lie in {windows} windows of "
            f"{memory.backend.settings.window} tokens; they must lie in {LEAST_WINDOWS}: evaluate with more people"
        )
    assert head is not None, "three windows were slept on"
    asked = []
    for r in rounds:
        with memory.fork(head) as fork:
            if r > 1:
                fork.sleep(deep=True, passes=passes, rounds=r - 1)
            now = fork.stats()
            if now.window_tokens != now.pinned_tokens:
                left = now.window_tokens - now.pinned_tokens
                raise SleepFailed(f"{left} tokens are still in the window after a sleep; nothing was measured")
            for mode in MODES:
                for q in questions:
                    answer = fork.ask(q.text, remember=mode == "sequence", max_new_tokens=_REPLY)
                    spread = len({where[person] for person in q.chain})
                    asked.append(Asked(passes, r, mode, q.depth, spread, answer.text == q.answer))
                    if mode == "sequence":
                        fork.sleep(passes=passes)
    return Lived(requests=len(episode.order), called=called, windows=windows, asked=asked)


def explore(session: Session, episode: rota.Episode) -> int:
    """The agent is told to look up everyone; returns how often it made the one right call.

    A fact that it failed to look up is given to it as a bare tool message, so that its memory is judged all the same.
    """
    calls: list[str] = []
    told: set[str] = set()

    def look_up(person: str) -> str:
        """Tells to whom a person on the rota hands over."""
        calls.append(person)
        if person not in episode.cycle:
            return rota.UNKNOWN
        told.add(person)
        return rota.fact(person, episode.successor(person))

    agent = Agent(session, [look_up], max_steps=1)
    called = 0
    for person in episode.order:
        for text in episode.talk.get(person, ()):
            session.ask(text, max_new_tokens=_REPLY)
        calls.clear()
        agent.errors.clear()
        finished = True
        try:
            agent.run(rota.request(person))
        except ToolError:  # it called a second time
            finished = False
        called += finished and not agent.errors and calls == [person]
        if person not in told:
            session.add("tool", rota.fact(person, episode.successor(person)))
            told.add(person)
    return called


def fact_windows(episode: rota.Episode, events: Sequence[Event]) -> dict[str, int]:
    """The window in which each person's fact was slept on, from a session's log: 0 is the first."""
    stops = [int(str(event.data["stop"])) for event in events if event.kind == "sleep"]
    facts = {rota.fact(person, episode.successor(person)): person for person in episode.order}
    where: dict[str, int] = {}
    for event in events:
        if event.role == "tool" and event.text in facts:
            where.setdefault(facts[event.text], bisect_right(stops, event.position))
    return where
