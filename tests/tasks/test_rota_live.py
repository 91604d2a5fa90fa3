"""The live form of rota, read back from its tokens: nothing here looks at the episode that a row was made from."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import pytest

from agentsleep.tasks import IGNORE, Difficulty, Rota, Window
from agentsleep.tasks import rota as words
from agentsleep.tasks.rota import NO_TOOL, NOTED, SMALL_TALK, UNKNOWN, Episode
from agentsleep.tokens import ASSISTANT, END, decode_text
from tests.tasks.helpers import check_form, real, windows_of
from tests.tasks.test_rota import walk

ROTA = Rota()
CHAT = ROTA.chat
SYSTEM, TOOLS = CHAT.message("system", words.SYSTEM), CHAT.tools([words.TOOL_SCHEMA])
MARKER, END_ID = (CHAT.tokenizer.convert_tokens_to_ids(marker) for marker in (ASSISTANT, END))
TURN = re.compile(r"<\|(\w+)\|>(.*?)<\|end\|>")
CALL = '<|call|>{{"name": "look_up", "arguments": {{"person": "{}"}}}}'


@dataclass
class Read:
    """One row of one window: what is pinned, and the rest with its labels."""

    system: bool
    tools: bool
    ids: list[int]
    labels: list[int]
    depth: list[int]


def read(window: Window, row: int) -> Read:
    ids = real(window, row)
    labels, depth = window.labels[row, : len(ids)].tolist(), window.depth[row, : len(ids)].tolist()
    start = len(SYSTEM) if (system := ids[: len(SYSTEM)] == SYSTEM) else 0
    tools = ids[start : start + len(TOOLS)] == TOOLS
    start += len(TOOLS) if tools else 0
    assert labels[:start] == [IGNORE] * start  # what is pinned is read, not written
    for place, label in enumerate(labels[:-1]):
        assert label in (IGNORE, ids[place + 1])
    return Read(system, tools, ids[start:], labels[start:], depth[start:])


def joined(parts: list[Read]) -> Read:
    """Windows as one stream."""
    assert len({(part.system, part.tools) for part in parts}) == 1  # the same pins at the head of every one
    first = parts[0]
    ids, labels, depth = (
        [x for part in parts for x in values(part)]
        for values in (attrgetter("ids"), attrgetter("labels"), attrgetter("depth"))
    )
    return Read(first.system, first.tools, ids, labels, depth)


def turns_of(stream: Read) -> list[tuple[str, str, int]]:
    """The turns as (role, text, depth of the answer); what the assistant writes must be labelled, and only that."""
    writing = False
    for place, token in enumerate(stream.ids):
        writing = (writing or token == MARKER) and token != END_ID
        assert stream.labels[place] == (stream.ids[place + 1] if writing else IGNORE)
        if stream.depth[place]:
            assert token == MARKER
    text = decode_text(CHAT.tokenizer, stream.ids)
    turns = TURN.findall(text)
    assert text == "".join(f"<|{role}|>{said}<|end|>" for role, said in turns)
    depths = iter([stream.depth[place] for place, token in enumerate(stream.ids) if token == MARKER])
    return [(role, said.removeprefix(" "), next(depths) if role == "assistant" else 0) for role, said in turns]


def told_in(stream: Read) -> tuple[dict[str, str], Counter[str]]:
    """The facts, and how often each kind of thing occurs; checks the order of the turns."""
    told: dict[str, str] = {}
    kinds: Counter[str] = Counter()
    turns = turns_of(stream)
    while turns:
        role, said, depth = turns.pop(0)
        assert depth == 0
        if role == "user" and said in SMALL_TALK:
            kinds["talk"] += 1
            if turns and turns[0][:2] == ("assistant", NOTED):
                turns.pop(0)
                kinds["talk noted"] += 1
            continue
        looked_up = None
        if role == "user":
            looked_up = said.removeprefix("look up ").removesuffix(" .")
            assert said == words.request(looked_up)
            assert turns.pop(0) == ("assistant", CALL.format(looked_up), 0)
            role, said, _ = turns.pop(0)
            assert turns.pop(0) == ("assistant", NOTED, 0)
        assert role == "tool"
        person, successor = said.removesuffix(" .").split(" hands over to ")
        assert said == words.fact(person, successor)
        assert looked_up in (None, person)
        assert person not in told
        told[person] = successor
        kinds["bare" if looked_up is None else "looked up"] += 1
    return told, kinds


def check_questions(stream: Read, told: dict[str, str]) -> Counter[str]:
    kinds: Counter[str] = Counter()
    turns = turns_of(stream)
    for (role, said, _), (replied, answer, depth) in zip(turns[::2], turns[1::2], strict=True):
        assert (role, replied) == ("user", "assistant")
        if said in SMALL_TALK:
            assert (answer, depth) == (NOTED, 0)
            kinds["talk"] += 1
        elif said.startswith("look up"):
            assert (answer, depth) == (NO_TOOL, 0)
            assert not stream.tools  # a tool that is offered would have to be called
            kinds["no tool"] += 1
        else:
            match = re.fullmatch(r"who comes (\d) after (\w+) \?", said)
            assert match is not None
            right = walk(told, match[2], int(match[1]))
            assert answer == right
            assert depth == (0 if right == UNKNOWN else int(match[1]))  # the curriculum counts what can be known
            kinds["unknown" if right == UNKNOWN else f"depth {match[1]}"] += 1
    return kinds


@pytest.mark.parametrize("windows", [1, 3, 6])
def test_a_live_batch_read_back(windows: int) -> None:
    rng = np.random.default_rng(windows)
    kinds: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    facts: Counter[int] = Counter()
    for _ in range(15):
        batch = ROTA.batch(rng, 40, Difficulty(windows=windows, depth=4, form="live"))
        check_form(ROTA, batch, 40)
        assert len(batch.context) == windows
        assert 1 <= len(batch.questions) <= 3
        for row in range(40):
            context = [read(window, row) for window in batch.context]
            assert all(part.tools for part in context)
            told, seen = told_in(joined(context))
            kinds.update(seen)
            facts[len(told)] += 1
            if len(told) == 12:
                person = next(iter(told))
                assert walk(told, person, 12) == person
                assert len({walk(told, person, steps) for steps in range(12)}) == 12
            questions = [read(window, row) for window in batch.questions]
            for part in questions:
                seen = check_questions(part, told)
                assert sum(seen.values()) == 1 + ROTA.questions // (2 * len(questions))
                asked.update(seen)
            joined(questions)
            asked["rows with tools"] += questions[0].tools
            asked["rows with tools and no system"] += questions[0].tools and not questions[0].system
            kinds["rows without system"] += not context[0].system
    assert set(kinds) == {"talk", "talk noted", "bare", "looked up", "rows without system"}
    assert {f"depth {d}" for d in (1, 2, 3, 4)} | {"unknown", "talk", "no tool", "rows with tools"} <= set(asked)
    assert asked["rows with tools and no system"] > 0
    assert asked["depth 5"] == 0
    assert 0.8 < facts[12] / sum(facts.values()) < 0.99  # now and then not everything was told


def test_cuts_lie_between_messages_and_now_and_then_inside_one() -> None:
    rng = np.random.default_rng(0)
    inside = whole = 0
    for _ in range(4):
        batch = ROTA.batch(rng, 40, Difficulty(windows=4, depth=4, form="live"))
        for row in range(40):
            for part in (read(window, row) for window in batch.context[:-1]):
                at_end = not part.ids or part.ids[-1] == END_ID
                whole, inside = whole + at_end, inside + (not at_end)
    assert 0.02 < inside / (inside + whole) < 0.15


def test_parts_of_a_stream_make_the_stream() -> None:
    rng = np.random.default_rng(0)
    for windows in (1, 2, 5, 9):
        for count in (12, 3, 1):
            episode: Episode = words.sample_episode(rng, 12)
            stream, ends = ROTA._told(rng, episode, episode.order[:count], bare=False)
            assert ends == sorted(ends)
            assert ends[0] == 0
            assert ends[-1] == len(stream.ids)
            assert all(stream.ids[end - 1] == END_ID for end in ends[1:])
            parts = ROTA._cut(rng, stream, ends, windows)
            assert len(parts) == windows
            assert [i for part in parts for i in part.ids] == stream.ids
            assert [i for part in parts for i in part.labels] == stream.labels
            assert [i for part in parts for i in part.depth] == stream.depth


def test_live_rows_are_what_the_chat_renders() -> None:
    """The same tokens as the messages of a live conversation, one after the other."""
    batch = ROTA.batch(np.random.default_rng(3), 20, Difficulty(windows=2, depth=3, form="live"))
    for row in range(20):
        for windows in (batch.context, [batch.questions[0]]):
            stream = joined([read(window, row) for window in windows])
            rendered: list[int] = []
            for role, said, _ in turns_of(stream):
                if said.startswith("<|call|>"):
                    call = CHAT.parse([*CHAT.tokenizer(said, add_special_tokens=False).input_ids]).call
                    assert call is not None
                    rendered += CHAT.call(call)
                else:
                    rendered += CHAT.message(role, said)  # type: ignore[arg-type]
            assert rendered == stream.ids


def test_questions_fit_into_a_window() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        batch = ROTA.batch(rng, 20, Difficulty(windows=4, depth=6, form="live"))
        assert max(window.ids.shape[1] for window in batch.questions) <= ROTA.window
        assert windows_of(batch)[-1] is batch.questions[-1]
