"""Conversations of one's own agents, read in windows as the live agent reads; the assistant's turns are learned."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from agentsleep.chat import ChatFormat, Role, ToolCall, chat_of
from agentsleep.chats import ToolSchema
from agentsleep.errors import AgentsleepError, InputError, SettingsError
from agentsleep.tasks.base import Batch, Difficulty, Row, stack

FORMS = ("plain", "held_out")
SHORTEST = 0.5  # of a window: live windows are slept on at all lengths


@dataclass(frozen=True)
class Transcript:
    """One conversation as tokens.

    head: what is pinned at the head of every window.  ids: what was said behind it, in order.
    learned: for each of ``ids``, whether the assistant wrote it.
    """

    head: tuple[int, ...]
    ids: tuple[int, ...]
    learned: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True)
class Transcripts:
    """Conversations from a JSONL file, one a line, as chat APIs take them:
    ``{"messages": [{"role", "content", "tool_calls"}], "tools": [...]}``.

    A batch has windows of one length, one of nine from half of ``window`` to all of it; each begins with the pinned
    system message and tools. Labels are all tokens that the assistant wrote, their depth is 1. ``form`` "held_out" is
    every tenth conversation, which "plain" leaves out (where there are at least ten).

    Args:
        path: the file.  tokenizer: a checkpoint directory or a name on the hub; its chat format is used.
        window: L in tokens.

    Raises:
        InputError: a line that is no conversation, named by its number; a tokenizer without a chat format.
        SettingsError: the file cannot be read, or no conversation in it has an assistant's turn; a window too short
            for what is pinned.
    """

    path: str
    tokenizer: str
    window: int = 512
    name: str = "transcripts"

    def __post_init__(self) -> None:
        if self.window < 8:
            raise SettingsError(f"window is {self.window}; a window of transcripts needs at least 8 tokens")
        if longest := max((len(one.head) for one in self.conversations), default=0):
            least = int(SHORTEST * self.window)
            if longest > least // 2:
                raise SettingsError(
                    f"system message and tools of a conversation take {longest} tokens, more than half of the shortest "
                    f"window ({least}); give a larger window than {self.window}"
                )

    @cached_property
    def spelling(self) -> PreTrainedTokenizerBase:
        """The tokenizer."""
        try:
            found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.tokenizer)
        except Exception as error:  # json, tokenizers and the hub each raise kinds of their own
            raise SettingsError(f"no tokenizer at {self.tokenizer} ({error}); name a model that has one") from error
        return found

    @cached_property
    def conversations(self) -> Sequence[Transcript]:
        """All that have a turn of the assistant, in the order of the file."""
        chat = chat_of(self.spelling)
        found = [one for one in _read(Path(self.path).expanduser(), chat) if any(one.learned)]
        if not found:
            raise SettingsError(f"no conversation in {self.path} has an assistant's turn to be learned")
        return found

    @property
    def vocab_size(self) -> int:
        return len(self.spelling)

    @property
    def depths(self) -> Sequence[int]:
        return (1,)

    def chance(self) -> float:
        return 0.0

    def batch(self, rng: np.random.Generator, size: int, difficulty: Difficulty) -> Batch:
        """``size`` spans of at most ``difficulty.windows`` windows each, fewer where no conversation is so long; in the
        last one the assistant speaks.

        Raises:
            SettingsError: another form or depth.
        """
        if difficulty.form not in FORMS:
            raise SettingsError(f"transcripts have no form {difficulty.form!r}; they have {', '.join(FORMS)}")
        if difficulty.depth != 1:
            raise SettingsError(f"depth {difficulty.depth}: what an assistant said has no depth but 1")
        eighths = int(rng.integers(0, 9))
        windows, length, choice = next(
            (count, length, choice)
            for count in range(difficulty.windows, 0, -1)
            for length in (round(self.window * (SHORTEST + (1 - SHORTEST) * n / 8)) for n in range(eighths, -1, -1))
            if (choice := self._choice(difficulty.form, length, count))
        )
        rows: list[list[Row]] = [[] for _ in range(windows)]
        for index in rng.integers(0, len(choice), size):
            one, ends = choice[int(index)]
            last = int(rng.choice(ends))
            for i in range(windows):
                rows[i].append(_window(one, length, last - windows + 1 + i))
        made = [stack(part) for part in rows]
        return Batch(context=made[:-1], questions=made[-1:])

    @cached_property
    def _choices(self) -> dict[tuple[str, int, int], list[tuple[Transcript, list[int]]]]:
        return {}

    def _choice(self, form: str, length: int, windows: int) -> list[tuple[Transcript, list[int]]]:
        """The conversations that are long enough, each with the windows that a span may end with."""
        key = (form, length, windows)
        if key not in self._choices:
            few = len(self.conversations) < 10
            part = [one for i, one in enumerate(self.conversations) if few or (i % 10 == 9) == (form == "held_out")]
            self._choices[key] = [(one, ends) for one in part if (ends := _ends(one, length, windows))]
        return self._choices[key]


def _ends(one: Transcript, length: int, windows: int) -> list[int]:
    """The windows of ``length`` tokens, by number, that hold a learned token and have ``windows - 1`` before them."""
    content = length - len(one.head)
    # The first token of a window has none before it that could tell it, unless something is pinned there.
    found = {place // content for place, learned in enumerate(one.learned) if learned and (one.head or place % content)}
    return sorted(number for number in found if number >= windows - 1)


def _window(one: Transcript, length: int, number: int) -> Row:
    content = length - len(one.head)
    part = slice(number * content, (number + 1) * content)
    row = Row()
    row.read(one.head)
    for token, learned in zip(one.ids[part], one.learned[part], strict=True):
        if learned and row.ids:
            row.answer([token], depth=1)
        else:
            row.read([token])
    return row


def _read(path: Path, chat: ChatFormat) -> Iterator[Transcript]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the transcripts {path} cannot be read ({error}); give a JSONL file") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
            if not isinstance(told, dict) or not isinstance(told.get("messages"), list):
                raise TypeError('there is no list "messages" in it')
            yield _transcript(told["messages"], told.get("tools") or [], chat)
        except (AgentsleepError, ValueError, TypeError, KeyError, AttributeError) as error:
            kind = "lacks" if isinstance(error, KeyError) else "is no conversation:"
            raise InputError(
                f'line {number} of {path} {kind} {error}; a line is {{"messages": [{{"role": ..., "content": ...}}]}}'
            ) from error


def _transcript(messages: Sequence[Mapping[str, Any]], tools: Sequence[ToolSchema], chat: ChatFormat) -> Transcript:
    chat = chat.with_tools(tools)
    first = bool(messages) and messages[0]["role"] in ("system", "developer")
    head = chat.head(_text(messages[0]) if first else None, tools)
    ids: list[int] = []
    learned: list[bool] = []
    for message in messages[first:]:
        role: Role = "system" if message["role"] == "developer" else message["role"]
        if role != "assistant":
            said = chat.message(role, _text(message))
            ids += said
            learned += [False] * len(said)
            continue
        turns = [chat.message("assistant", text)] if (text := _text(message)).strip() else []
        turns += [chat.call(_call(call)) for call in message.get("tool_calls") or []]
        for turn in turns:
            before, after = len(chat.prompt()), len(chat.close)
            ids += turn
            learned += [before <= i < len(turn) - after for i in range(len(turn))]
    return Transcript(tuple(head), tuple(ids), tuple(learned))


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = [part["text"] for part in content if part.get("type", "text") == "text"]
    if len(parts) < len(content):
        raise ValueError(f"a {message['role']} message has parts that are no text")
    return "".join(parts)


def _call(call: Mapping[str, Any]) -> ToolCall:
    function = call.get("function", call)
    arguments = function["arguments"]
    if isinstance(arguments, str):  # as chat APIs send it
        arguments = json.loads(arguments)
    if not isinstance(arguments, Mapping):
        raise TypeError(f"the arguments of {function['name']!r} are {arguments!r}, no object")
    return ToolCall(function["name"], arguments)
