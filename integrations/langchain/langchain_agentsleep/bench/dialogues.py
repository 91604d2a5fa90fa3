"""What the agents live through: rotas of the task that the shipped model was trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolCall, ToolMessage

from agentsleep.tasks import rota

Kind = Literal["look-up", "talk", "question"]
BLOCK: tuple[Kind, ...] = ("look-up",) * 12 + ("talk",) * 5 + ("question",) * 3
"""Twenty turns, in a random order that is the same in every block: each block is about a rota of its own."""
_STREAM, _RUN = 0x6167656E74, 0x72756E  # told apart by these from the seeds of other draws


@dataclass(frozen=True)
class Dialogue:
    """A rota that was explored, small talk until its facts have left any list that fits the window, and questions.

    questions: about the same people at every depth.
    """

    episode: rota.Episode
    fillers: tuple[str, ...]
    questions: tuple[rota.Question, ...]

    def facts(self) -> list[str]:
        """All that there is to know, in the order in which it was told."""
        return [rota.fact(person, self.episode.successor(person)) for person in self.episode.order]

    def messages(self) -> list[BaseMessage]:
        """As an agent leaves them that looks everybody up with the one right call."""
        told: list[BaseMessage] = []
        for person in self.episode.order:
            for text in self.episode.talk.get(person, ()):
                told += [HumanMessage(text), AIMessage(rota.NOTED)]
            name = f"call_{person}"
            call = ToolCall(name=rota.TOOL_NAME, args={rota.TOOL_ARGUMENT: person}, id=name, type="tool_call")
            told += [HumanMessage(rota.request(person)), AIMessage("", tool_calls=[call])]
            told += [ToolMessage(rota.fact(person, self.episode.successor(person)), tool_call_id=name)]
            told += [AIMessage(rota.NOTED)]
        for text in self.fillers:
            told += [HumanMessage(text), AIMessage(rota.NOTED)]
        return told


def draw(
    seed: int,
    index: int,
    *,
    people: int,
    depths: Sequence[int],
    per_depth: int,
    window: int,
    length: Callable[[str], int],
) -> Dialogue:
    """A dialogue; equal arguments draw equal ones.

    Args:
        window: tokens of small talk that follow the facts, at least.  length: tokens of a turn of small talk.
    """
    rng = np.random.default_rng([seed, _STREAM, index])
    episode = rota.sample_episode(rng, people)
    asked = rng.choice(people, per_depth, replace=False)
    questions = tuple(episode.ask(depth, episode.cycle[i]) for depth in depths for i in asked)
    fillers: list[str] = []
    while sum(map(length, fillers)) < window:
        fillers.append(_talk(rng))
    return Dialogue(episode, tuple(fillers), questions)


class Step(NamedTuple):
    """A turn of the long run: its number, what the user says, and the rota that the tool then knows."""

    number: int
    kind: Kind
    text: str
    episode: rota.Episode


def long_run(seed: int, turns: int) -> list[Step]:
    """Turns of one long conversation: in every block of twenty a new rota is explored and asked about."""
    rng = np.random.default_rng([seed, _RUN])
    order = rng.permutation(len(BLOCK))
    steps: list[Step] = []
    while len(steps) < turns:
        episode = rota.sample_episode(rng)
        people = iter(episode.order)
        for place in order:
            kind = BLOCK[place]
            text = _talk(rng)
            if kind == "look-up":
                text = rota.request(next(people))
            elif kind == "question":
                text = rota.question(1 + int(rng.integers(4)), episode.cycle[rng.integers(len(episode.cycle))])
            steps.append(Step(len(steps), kind, text, episode))
    return steps[:turns]


def _talk(rng: np.random.Generator) -> str:
    return rota.SMALL_TALK[rng.integers(len(rota.SMALL_TALK))]
