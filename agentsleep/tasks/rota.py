"""rota: the small closed English of an agent that explores an on-call rota.

People hand over to each other along one cycle. The agent looks them up with a tool, one after the other and in random
order, with small talk in between; every fact is slept on and evicted. Then it is asked ``who comes 3 after bob ?``.

    user       look up bob .
    assistant  {"name": "look_up", "arguments": {"person": "bob"}}
    tool       bob hands over to alice .
    assistant  noted
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from transformers import PreTrainedTokenizerFast

from agentsleep.chat import CHAT_TEMPLATE, Chat, Role, ToolCall
from agentsleep.errors import SettingsError
from agentsleep.tasks.base import Batch, Difficulty, Row, stack
from agentsleep.tokens import build_tokenizer

# fmt: off
NAMES: tuple[str, ...] = (
    "alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy", "karl", "laura", "mike", "nina",
    "oscar", "peggy", "quinn", "rita", "steve", "tina", "ursula", "victor", "wendy", "xenia", "yuri", "zoe", "adam",
    "bella", "cyril", "diana", "emil", "fiona", "george", "hanna", "igor", "jane", "kurt", "lena", "mario", "nora",
)
# fmt: on
SYSTEM = "you watch the rota ."
TOOL_NAME, TOOL_ARGUMENT = "look_up", "person"
NOTED, UNKNOWN, NO_TOOL = "noted", "unknown", "no tool"
MAX_DEPTH = 8
_SUBJECTS = ("the coffee", "the office", "the build", "the weather", "the train", "lunch")
_STATES = ("is cold", "is late", "is fine", "is broken", "is great", "is quiet")
_WHENS = ("today", "again", "this week")
SMALL_TALK: tuple[str, ...] = tuple(f"{s} {v} {w} ." for s in _SUBJECTS for v in _STATES for w in _WHENS)
TOOL_SCHEMA = {
    "type": "function",
    "function": {
        "name": TOOL_NAME,
        "description": "Tells to whom a person on the rota hands over.",
        "parameters": {
            "type": "object",
            "properties": {TOOL_ARGUMENT: {"type": "string"}},
            "required": [TOOL_ARGUMENT],
        },
    },
}


def fact(person: str, successor: str) -> str:
    """What the tool answers."""
    return f"{person} hands over to {successor} ."


def request(person: str) -> str:
    """What makes the agent call its tool."""
    return f"look up {person} ."


def question(depth: int, person: str) -> str:
    """The question of a depth."""
    return f"who comes {depth} after {person} ?"


def vocabulary() -> list[str]:
    """Every piece of the closed English, spaces included."""
    words = [f" {name}" for name in NAMES] + [*NAMES] + [f" {k}" for k in range(1, MAX_DEPTH + 1)]
    words += [" hands over to", " look up", " who comes", " after", " .", " ?"]
    words += [f" {reply}" for reply in (NOTED, UNKNOWN, NO_TOOL)]
    words += [f" {word}" for text in (*_SUBJECTS, *_STATES, *_WHENS, SYSTEM) for word in text.split() if word != "."]
    before, after = ToolCall(TOOL_NAME, {TOOL_ARGUMENT: "|"}).to_json().split("|")
    return [*words, before, after, f" {TOOL_NAME}", f"({TOOL_ARGUMENT})"]


def tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the closed English."""
    return build_tokenizer(vocabulary(), CHAT_TEMPLATE)


@dataclass(frozen=True)
class Question:
    """A question and its one right answer; ``chain`` are the people whose facts it needs, in order."""

    text: str
    answer: str
    depth: int
    chain: tuple[str, ...]


@dataclass(frozen=True)
class Episode:
    """A rota: ``cycle`` in hand-over order, ``order`` in which people are looked up, small talk before some of them."""

    cycle: tuple[str, ...]
    order: tuple[str, ...]
    talk: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def successor(self, person: str, steps: int = 1) -> str:
        """Who comes ``steps`` after a person."""
        return self.cycle[(self.cycle.index(person) + steps) % len(self.cycle)]

    def ask(self, depth: int, person: str, known: Sequence[str] | None = None) -> Question:
        """A question; its answer is UNKNOWN where it needs the fact of someone not in ``known`` (default: all)."""
        chain = tuple(self.successor(person, i) for i in range(depth)) if person in self.cycle else (person,)
        told = self.order if known is None else known
        answer = self.successor(person, depth) if all(p in told for p in chain) else UNKNOWN
        return Question(question(depth, person), answer, depth, chain)


def sample_episode(rng: np.random.Generator, people: int = 12, chatter: float = 0.4) -> Episode:
    """A cycle of ``people`` people in random order; before each look-up small talk with probability ``chatter``.

    Raises:
        SettingsError: fewer people than make the deepest question unguessable, or more than there are names.
    """
    if not MAX_DEPTH < people <= len(NAMES):
        raise SettingsError(f"people is {people}; it must lie in {MAX_DEPTH + 1}..{len(NAMES)}")
    cycle = tuple(NAMES[i] for i in rng.permutation(len(NAMES))[:people])
    order = tuple(cycle[i] for i in rng.permutation(people))
    talk: dict[str, tuple[str, ...]] = {
        person: (SMALL_TALK[rng.integers(len(SMALL_TALK))],) for person in order if rng.random() < chatter
    }
    return Episode(cycle, order, talk)


@dataclass
class Rota:
    """Batches of rota for the trainer.

    Forms, from bare to live:
        ``pairs``: facts and questions without the turns around them; all questions are packed into one window.
        ``facts``: the same as whole messages of the tool and the user.
        ``live``: what the agent really reads: look-ups through the tool or bare tool messages, small talk, pinned
            system text and tools at the head of a window, windows cut mostly between messages, questions with their
            answers in several windows that are slept on themselves, and questions whose facts were not told.
    """

    people: int = 12
    max_depth: int = 6
    window: int = 96
    questions: int = 8
    name: str = "rota"

    def __post_init__(self) -> None:
        if not 1 <= self.max_depth <= MAX_DEPTH:
            raise SettingsError(f"max_depth is {self.max_depth}; the vocabulary has 1..{MAX_DEPTH}")
        self.chat = Chat(tokenizer())
        self.vocab_size = len(self.chat.tokenizer)
        self._known: dict[str, list[int]] = {}

    @property
    def depths(self) -> Sequence[int]:
        return range(1, self.max_depth + 1)

    def chance(self) -> float:
        return 1 / (self.people - 1)

    def batch(self, rng: np.random.Generator, size: int, difficulty: Difficulty) -> Batch:
        """``size`` episodes over ``difficulty.windows`` windows, questions of 1..depth hops, in the form it names.

        Raises:
            SettingsError: an unknown form, more windows than people, or a depth that cannot be asked.
        """
        if not 1 <= difficulty.windows <= self.people:
            raise SettingsError(f"{difficulty.windows} windows cannot share what is told of {self.people} people")
        if not 1 <= difficulty.depth <= self.max_depth:
            raise SettingsError(f"depth {difficulty.depth} is outside of 1..{self.max_depth}")
        if difficulty.form in ("pairs", "facts"):
            return self._packed(rng, size, difficulty)
        if difficulty.form == "live":
            return self._live(rng, size, difficulty)
        raise SettingsError(f"form {difficulty.form!r} is not one of 'pairs', 'facts', 'live'")

    def _turn(self, role: Role, text: str) -> list[int]:
        key = f"{role}|{text}"
        if key not in self._known:
            self._known[key] = self.chat.message(role, text)
        return self._known[key]

    def _packed(self, rng: np.random.Generator, size: int, difficulty: Difficulty) -> Batch:
        bare = difficulty.form == "pairs"
        context: list[list[Row]] = [[] for _ in range(difficulty.windows)]
        asked: list[Row] = []
        for _ in range(size):
            episode = sample_episode(rng, self.people, chatter=0)
            for rows, people in zip(context, np.array_split(np.array(episode.order), difficulty.windows), strict=True):
                row = Row()
                for person in people:
                    told = self._turn("tool", fact(person, episode.successor(person)))
                    row.read(told[1:-2] if bare else told)
                rows.append(row)
            row = Row()
            for person in rng.permutation(episode.cycle)[: self.questions]:
                q = episode.ask(self._depth(rng, difficulty.depth), str(person))
                asking = self._turn("user", q.text)
                row.read(asking[1:-1] if bare else asking)
                row.read(self.chat.prompt())
                row.labels[-1], row.depth[-1] = self._turn("assistant", q.answer)[1], q.depth
            asked.append(row)
        return Batch(context=[stack(rows) for rows in context], questions=[stack(asked)])

    def _depth(self, rng: np.random.Generator, deepest: int) -> int:
        """Uniform, but the newest depth twice as often."""
        return min(int(rng.integers(1, deepest + 2)), deepest)

    def _live(self, rng: np.random.Generator, size: int, difficulty: Difficulty) -> Batch:
        context: list[list[Row]] = [[] for _ in range(difficulty.windows)]
        sleeps = int(rng.integers(1, 4))
        asked: list[list[Row]] = [[] for _ in range(sleeps)]
        bare = rng.random() < 0.3  # per batch, so that its rows are of like length
        for _ in range(size):
            episode = sample_episode(rng, self.people)
            told = episode.order
            if rng.random() < 0.1:
                told = told[: int(rng.integers(1, self.people))]
            pins = self._pins(rng, tools=True)
            stream, ends = self._told(rng, episode, told, bare)
            for rows, part in zip(context, self._cut(rng, stream, ends, difficulty.windows), strict=True):
                rows.append(Row([*pins.ids, *part.ids], [*pins.labels, *part.labels], [*pins.depth, *part.depth]))
            tools = rng.random() < 0.1
            pins = self._pins(rng, tools=tools)
            count = 1 + self.questions // (2 * sleeps)
            for rows in asked:
                rows.append(self._asked(rng, episode, told, pins, difficulty.depth, count, tools))
        return Batch(context=[stack(rows) for rows in context], questions=[stack(rows) for rows in asked])

    def _pins(self, rng: np.random.Generator, tools: bool) -> Row:
        row = Row()
        if rng.random() < 0.8:
            row.read(self._turn("system", SYSTEM))
        if tools:
            row.read(self.chat.tools([TOOL_SCHEMA]))
        return row

    def _told(
        self, rng: np.random.Generator, episode: Episode, told: Sequence[str], bare: bool
    ) -> tuple[Row, list[int]]:
        """The conversation up to the questions as one stream, and the positions at which its messages end."""
        row, ends = Row(), [0]
        for person in told:
            for text in episode.talk.get(person, ()):
                row.read(self._turn("user", text))
                ends.append(len(row.ids))
                if rng.random() < 0.7:
                    self._replied(row, self._turn("assistant", NOTED))
                    ends.append(len(row.ids))
            result = self._turn("tool", fact(person, episode.successor(person)))
            if bare or rng.random() < 0.1:
                row.read(result)
            else:
                row.read(self._turn("user", request(person)))
                ends.append(len(row.ids))
                self._replied(row, self.chat.call(ToolCall(TOOL_NAME, {TOOL_ARGUMENT: person})))
                ends.append(len(row.ids))
                row.read(result)
                ends.append(len(row.ids))
                self._replied(row, self._turn("assistant", NOTED))
            ends.append(len(row.ids))
        return row, ends

    def _replied(self, row: Row, ids: Sequence[int], depth: int = 0) -> None:
        """An assistant's turn: its marker is read, the rest is what the model must write."""
        row.read(ids[:1])
        row.answer(ids[1:], depth)

    def _cut(self, rng: np.random.Generator, stream: Row, ends: Sequence[int], windows: int) -> list[Row]:
        """The stream in ``windows`` parts of about equal length, cut between messages or, now and then, inside one."""
        total = len(stream.ids)
        cuts = [0]
        for i in range(1, windows):
            wish = total * i / windows + rng.uniform(-1, 1) * total / windows * 0.1
            inside = rng.random() < 0.1
            place = round(wish) if inside else min(ends, key=lambda end: abs(end - wish))
            cuts.append(int(np.clip(place, cuts[-1], total)))
        cuts.append(total)
        return [Row(stream.ids[a:b], stream.labels[a:b], stream.depth[a:b]) for a, b in pairwise(cuts)]

    def _asked(
        self,
        rng: np.random.Generator,
        episode: Episode,
        told: Sequence[str],
        pins: Row,
        deepest: int,
        count: int,
        tools: bool,
    ) -> Row:
        row = Row([*pins.ids], [*pins.labels], [*pins.depth])
        for _ in range(count):
            dice = rng.random()
            if dice < 0.05 and not tools:
                row.read(self._turn("user", request(NAMES[rng.integers(len(NAMES))])))
                self._replied(row, self._turn("assistant", NO_TOOL))
                continue
            if dice < 0.1:
                row.read(self._turn("user", SMALL_TALK[rng.integers(len(SMALL_TALK))]))
                self._replied(row, self._turn("assistant", NOTED))
                continue
            person = NAMES[rng.integers(len(NAMES))] if dice < 0.15 else episode.cycle[rng.integers(self.people)]
            q = episode.ask(self._depth(rng, deepest), person, told)
            row.read(self._turn("user", q.text))
            self._replied(row, self._turn("assistant", q.answer), q.depth if q.answer != UNKNOWN else 0)
        return row
