"""What answers without a memory: a guess that needs no model, and the model with an empty state."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from agentsleep.evals.intervals import wilson
from agentsleep.memory import SleepMemory
from agentsleep.tasks import rota

Drawn = tuple[rota.Episode, Sequence[rota.Question]]
_REPLY = 8  # tokens


def most_mentioned(episode: rota.Episode, question: rota.Question) -> str:
    """Who was mentioned most, the asked person aside; the first of them where several were."""
    counts = Counter(name for name in _mentions(episode) if name != question.chain[0])
    return counts.most_common(1)[0][0]


def last_mentioned(episode: rota.Episode, question: rota.Question) -> str:
    """Who was mentioned last, the asked person aside."""
    return next(name for name in reversed(_mentions(episode)) if name != question.chain[0])


def one_hop(episode: rota.Episode, question: rota.Question) -> str:
    """Who comes right after the asked person, whatever the depth."""
    return episode.successor(question.chain[0])


def _mentions(episode: rota.Episode) -> list[str]:
    """Names in the order in which the agent reads them: in the request, the call and the fact."""
    return [name for person in episode.order for name in (person, person, person, episode.successor(person))]


GUESSES: Mapping[str, Callable[[rota.Episode, rota.Question], str]] = {
    "most-mentioned": most_mentioned,
    "last-mentioned": last_mentioned,
    "one-hop": one_hop,
}


def answers_without_memory(memory: SleepMemory, texts: Iterable[str]) -> dict[str, str]:
    """What the model answers to each question in a session that has read nothing."""
    with memory.session("a blank slate", system=rota.SYSTEM) as blank:
        return {text: blank.ask(text, remember=False, max_new_tokens=_REPLY).text for text in sorted(set(texts))}


def baseline_rows(drawn: Sequence[Drawn], no_memory: Mapping[str, str]) -> list[dict[str, Any]]:
    """Accuracy by depth of every baseline: ``{"name", "depth", "accuracy", "interval", "questions"}``.

    Args:
        drawn: all episodes with their questions.
        no_memory: what :func:`answers_without_memory` gave.

    ``best-constant`` is the most frequent right answer to all questions of a depth: the best that can be chosen in
    hindsight.
    """
    asked = [(episode, question) for episode, questions in drawn for question in questions]
    truth: dict[int, Counter[str]] = defaultdict(Counter)
    for _, question in asked:
        truth[question.depth][question.answer] += 1
    guesses: dict[str, Callable[[rota.Episode, rota.Question], str]] = {
        "no-memory": lambda episode, question: no_memory[question.text],
        "best-constant": lambda episode, question: truth[question.depth].most_common(1)[0][0],
        **GUESSES,
    }
    rows = []
    for name, guess in guesses.items():
        right = Counter(question.depth for episode, question in asked if guess(episode, question) == question.answer)
        for depth in sorted(truth):
            rows.append({"name": name, "depth": depth, **rate(right[depth], truth[depth].total())})
    return rows


def rate(right: int, asked: int) -> dict[str, Any]:
    """An accuracy with its 95 % Wilson interval."""
    return {"accuracy": right / asked, "interval": list(wilson(right, asked)), "questions": asked}
