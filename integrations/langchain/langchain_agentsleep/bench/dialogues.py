"""What the agents live through: rotas of the task that the shipped model was trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolCall, ToolMessage

from agentsleep.tasks import rota

Kind = Literal["look-up", "talk"]
BLOCK: tuple[Kind, ...] = ("look-up",) * 2 + ("talk",) * 18
"""Twenty turns, in a random order that is the same in every block: the work is alike at both ends of a run. A hundred
turns explore one rota, as in training: after several, the shipped model often calls its tool no more."""
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
    """Turns of one long conversation about one rota, which is explored little by little; when all of it was told, a new
    one begins."""
    rng = np.random.default_rng([seed, _RUN])
    order = rng.permutation(len(BLOCK))
    episode = rota.sample_episode(rng)
    untold = list(episode.order)
    steps: list[Step] = []
    for number in range(turns):
        kind, text = BLOCK[order[number % len(BLOCK)]], _talk(rng)
        if kind == "look-up":
            if not untold:
                episode = rota.sample_episode(rng)
                untold = list(episode.order)
            text = rota.request(untold.pop(0))
        steps.append(Step(number, kind, text, episode))
    return steps


def _talk(rng: np.random.Generator) -> str:
    return rota.SMALL_TALK[rng.integers(len(rota.SMALL_TALK))]
