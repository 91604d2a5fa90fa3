"""Transcripts as windows: what is read, what is learned, and lines that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentsleep.backends.loading import shipped_model
from agentsleep.chat import ToolCall, chat_of
from agentsleep.errors import InputError, SettingsError
from agentsleep.tasks import IGNORE, Difficulty, Transcripts
from tests.tasks.helpers import check_seeds, real

NAP = str(shipped_model())
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"properties": {"person": {}}}}}]


def conversation(turns: int, system: str | None = "be brief .", tools: bool = True) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for i in range(turns):
        made = {"type": "function", "function": {"name": "look_up", "arguments": json.dumps({"person": f"p{i}"})}}
        messages += [
            {"role": "user", "content": f"who is p{i} ?"},
            {"role": "assistant", "content": None, "tool_calls": [made]},
            {"role": "tool", "content": f"p{i} is {7 * i}"},
            {"role": "assistant", "content": [{"type": "text", "text": f"it is {7 * i} ."}]},
        ]
    return {"messages": messages, "tools": TOOLS} if tools else {"messages": messages}


def call(person: str) -> ToolCall:
    return ToolCall("look_up", {"person": person})


def write(path: Path, *told: object) -> str:
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in told) + "\n")
    return str(path)


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write(tmp_path / "t.jsonl", *[conversation(6 + i) for i in range(12)], "", conversation(5, None, False))


def test_a_conversation_is_tokens_of_which_the_assistants_are_learned(data: str) -> None:
    task = Transcripts(path=data, tokenizer=NAP, window=96)
    chat = chat_of(task.spelling)
    first = task.conversations[0]
    assert list(first.head) == chat.head("be brief .", TOOLS)
    assert (
        list(first.ids[:30])
        == (
            chat.message("user", "who is p0 ?")
            + chat.call(call("p0"))
            + chat.message("tool", "p0 is 0")
            + chat.message("assistant", "it is 0 .")
        )[:30]
    )
    learned = [token for token, mine in zip(first.ids, first.learned, strict=True) if mine]
    expected: list[int] = []
    for i in range(6):
        expected += chat.call(call(f"p{i}"))[1:] + chat.message("assistant", f"it is {7 * i} .")[1:]
    assert learned == expected
    assert task.conversations[-1].head == ()
    assert len(task.conversations) == 13


@pytest.mark.parametrize("windows", [1, 2, 3])
def test_windows_follow_each_other_and_the_last_one_has_something_to_learn(data: str, windows: int) -> None:
    task = Transcripts(path=data, tokenizer=NAP, window=80)
    lengths = set()
    for seed in range(12):
        batch = task.batch(np.random.default_rng(seed), 5, Difficulty(windows=windows, depth=1))
        assert (len(batch.context), len(batch.questions)) == (windows - 1, 1)
        for window in batch.context:
            assert window.mask is None  # a stock model must not see padding before the end
            lengths.add(window.ids.shape[1])
        assert bool((batch.questions[0].labels != IGNORE).any(1).all())
        for row in range(5):
            shown = [real(window, row) for window in [*batch.context, *batch.questions]]
            head, ids, mine = _source(task, shown)
            content = [token for part in shown for token in part[len(head) :]]
            start = next(i for i in range(len(ids)) if list(ids[i : i + len(content)]) == content)
            at = start
            for window, part in zip([*batch.context, *batch.questions], shown, strict=True):
                assert part[: len(head)] == list(head)
                for place in range(len(head), len(part)):
                    wanted = ids[at] if mine[at] and place else IGNORE
                    assert not place or int(window.labels[row, place - 1]) == wanted
                    at += 1
    if windows > 1:
        assert len(lengths) > 3
        assert {min(lengths) >= 40, max(lengths) <= 80} == {True}


def _source(task: Transcripts, shown: list[list[int]]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[bool, ...]]:
    for one in task.conversations:
        content = [token for part in shown for token in part[len(one.head) :]]
        fits = all(part[: len(one.head)] == list(one.head) for part in shown)
        if fits and any(list(one.ids[i : i + len(content)]) == content for i in range(len(one.ids))):
            return one.head, one.ids, one.learned
    raise AssertionError("these windows are of no conversation")


def test_every_tenth_conversation_is_held_out(data: str) -> None:
    task = Transcripts(path=data, tokenizer=NAP, window=96)
    kept = {id(one) for one, _ in task._choice("held_out", 96, 1)}
    trained = {id(one) for one, _ in task._choice("plain", 96, 1)}
    assert kept == {id(task.conversations[9])}
    assert trained == {id(one) for one in task.conversations} - kept


def test_where_no_conversation_is_so_long_there_are_fewer_windows(data: str) -> None:
    task = Transcripts(path=data, tokenizer=NAP, window=96)
    batch = task.batch(np.random.default_rng(0), 3, Difficulty(windows=40, depth=1))
    assert 3 < len(batch.context) < 39
    assert bool((batch.questions[0].labels != IGNORE).any(1).all())


def test_seeds(data: str) -> None:
    check_seeds(Transcripts(path=data, tokenizer=NAP, window=96), Difficulty(windows=2, depth=1))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2 .* is no conversation"),
        ("[]", 'there is no list "messages" in it'),
        ({"messages": "hello"}, 'there is no list "messages"'),
        ({"messages": [{"content": "hello"}]}, "lacks 'role'"),
        ({"messages": [{"role": "nobody", "content": "hello"}]}, "role 'nobody'"),
        ({"messages": [{"role": "user", "content": " "}]}, "has no text"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "has parts that are no text"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "3"}}]}]},
            "no object",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
            "line 2",
        ),
        ({"messages": ["hello"]}, "line 2"),
    ],
)
def test_lines_that_are_no_conversation(tmp_path: Path, line: Any, said: str) -> None:
    path = write(tmp_path / "t.jsonl", conversation(2), line)
    with pytest.raises(InputError, match=said):
        Transcripts(path=path, tokenizer=NAP)


def test_files_that_do_not_serve(tmp_path: Path, data: str) -> None:
    with pytest.raises(SettingsError, match=r"cannot be read .* give a JSONL file"):
        Transcripts(path=str(tmp_path / "none.jsonl"), tokenizer=NAP)
    (tmp_path / "latin.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="cannot be read"):
        Transcripts(path=str(tmp_path / "latin.jsonl"), tokenizer=NAP)
    silent = write(tmp_path / "silent.jsonl", {"messages": [{"role": "user", "content": "hello"}]})
    with pytest.raises(SettingsError, match=r"no conversation in .* has an assistant's turn"):
        Transcripts(path=silent, tokenizer=NAP)
    with pytest.raises(SettingsError, match="no tokenizer at"):
        Transcripts(path=data, tokenizer=str(tmp_path))
    with pytest.raises(SettingsError, match="more than half of the shortest window"):
        Transcripts(path=data, tokenizer=NAP, window=20)
    with pytest.raises(SettingsError, match="at least 8 tokens"):
        Transcripts(path=data, tokenizer=NAP, window=4)


@pytest.mark.parametrize(
    ("difficulty", "said"),
    [
        (Difficulty(windows=1, depth=2), "no depth but 1"),
        (Difficulty(windows=1, depth=1, form="dense"), "no form 'dense'"),
    ],
)
def test_batches_that_there_are_not(data: str, difficulty: Difficulty, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Transcripts(path=data, tokenizer=NAP, window=96).batch(np.random.default_rng(0), 2, difficulty)
