"""Questions to a session that leave no trace in it, and the logits that each answer began with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agentsleep.memory import Session, SleepMemory
from agentsleep.memory.decoding import Scratch, feed
from agentsleep.tasks.rota import Question

ANSWER_TOKENS = 12  # a name or "unknown" and the end of the turn, with room for a model that rambles


@dataclass(frozen=True)
class Asked:
    """A question with the answer that was given."""

    question: Question
    answer: str

    @property
    def right(self) -> bool:
        """Whether it is the right one."""
        return self.answer == self.question.answer

    def record(self) -> dict[str, Any]:
        """As JSON."""
        q = self.question
        return {"depth": q.depth, "text": q.text, "expected": q.answer, "answer": self.answer, "right": self.right}


def ask_all(memory: SleepMemory, session: Session, texts: Sequence[str]) -> tuple[list[str], Tensor]:
    """Asks each question of the same state.

    Returns:
        The answers, and the logits ``[questions, vocabulary]`` from which the first token of each was taken.
    """
    answers, logits = [], []
    for text in texts:
        aside = Scratch(session.window.fork(), (), 1)
        feed(aside, [*memory.chat.message("user", text), *memory.chat.prompt()], 0)
        assert aside.window.logits is not None
        logits.append(aside.window.logits)
        answers.append(session.ask(text, remember=False, max_new_tokens=ANSWER_TOKENS).text)
    width = memory.backend.config.vocab_size
    return answers, torch.stack(logits) if logits else torch.empty(0, width)
