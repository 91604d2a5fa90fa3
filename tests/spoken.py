"""A checkpoint that has learned nothing but has the rota's words, and a puppet that speaks them as it should."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from transformers.utils import logging

from agentsleep.backends import LiveWindow
from agentsleep.chat import Chat, ToolCall
from agentsleep.tasks import rota
from agentsleep.tokens import ASSISTANT, TOOL, USER, decode_text
from tests.tiny import tiny


def save_tiny(folder: Path) -> Path:
    """Random weights with the rota's tokenizer; about every other token that it writes ends its turn."""
    tokenizer = rota.tokenizer()
    model = tiny(vocab_size=len(tokenizer), sleep_window=96)
    with torch.no_grad():
        model.get_output_embeddings().weight[tokenizer.eos_token_id] *= 20
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model.save_pretrained(folder)
    finally:
        if shown:
            logging.enable_progress_bar()
    tokenizer.save_pretrained(folder)
    return folder


class Puppet:
    """Puts words into the mouth of every LiveWindow: calls the tool when it should, answers as it is told.

    Args:
        answer: the answer to a question.
        calls: whom it looks up when it is asked to look someone up; None says a word instead.
        after_tool: what it says to a tool's result; a person's name makes it call again.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        answer: Callable[[str], str] = lambda text: rota.UNKNOWN,
        calls: Callable[[str], str | None] = lambda person: person,
        after_tool: str = rota.NOTED,
    ) -> None:
        self.chat = Chat(rota.tokenizer())
        self.answer, self.calls, self.after_tool = answer, calls, after_tool
        known = self.chat.tokenizer.get_vocab()
        self.prompt, self.hears = known[ASSISTANT], {known[USER]: "user", known[TOOL]: "tool"}
        self.heard: list[int] = []
        self.reply: list[int] = []
        really = LiveWindow.read

        def read(window: LiveWindow, ids: Sequence[int]) -> None:
            really(window, ids)
            self.heard += ids
            if ids and ids[-1] == self.prompt:
                self.reply = self._reply()
            elif len(ids) == 1 and self.reply and ids[0] == self.reply[0]:
                self.reply.pop(0)
            if self.reply and window.logits is not None:
                window.logits = torch.zeros_like(window.logits)
                window.logits[self.reply[0]] = 1.0

        monkeypatch.setattr(LiveWindow, "read", read)

    def _reply(self) -> list[int]:
        start = max(i for i, token in enumerate(self.heard) if token in self.hears)
        stop = self.heard.index(self.chat.end, start)
        text = decode_text(self.chat.tokenizer, self.heard[start + 1 : stop]).strip()
        if self.hears[self.heard[start]] == "tool":
            return self._say(self.after_tool) if self.after_tool == rota.NOTED else self._call(self.after_tool)
        if wanted := re.fullmatch(r"look up (\w+) \.", text):
            person = self.calls(wanted[1])
            return self._call(person) if person else self._say(rota.NOTED)
        return self._say(self.answer(text) if text.startswith("who comes") else rota.NOTED)

    def _say(self, text: str) -> list[int]:
        return self.chat.message("assistant", text)[1:]

    def _call(self, person: str) -> list[int]:
        return self.chat.call(ToolCall(rota.TOOL_NAME, {rota.TOOL_ARGUMENT: person}))[1:]
