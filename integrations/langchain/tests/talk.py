"""A model that has learnt nothing and says what it is told, and short forms for conversations with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from torch import Tensor
from transformers import LogitsProcessor

from agentsleep.archive import Event, Scope
from agentsleep.memory import Session, SleepMemory
from agentsleep.models.nap import NapConfig, NapForCausalLM
from agentsleep.policy import SleepPolicy
from agentsleep.state import FastWeights
from agentsleep.tasks import rota
from langchain_agentsleep import ChatSleep, Handle
from langchain_agentsleep.choices import Link
from langchain_agentsleep.messages import Logged, logged

NEVER = SleepPolicy(trigger=None)
FACTS = [rota.fact(a, b) for a, b in zip(rota.NAMES, rota.NAMES[1:], strict=False)]
"""Texts of 6 tokens each, the marks of a turn included."""
SCOPE = Scope(tenant="default", user="default", thread="t")

Open = Callable[..., SleepMemory]


def make_nap(folder: Path) -> Path:
    """A checkpoint with rota's tokenizer and random weights at which every part of a block matters; its window holds 96
    tokens, and about every other token that it writes ends its turn."""
    tokenizer = rota.tokenizer()
    torch.manual_seed(1)
    config = NapConfig(
        pattern="as",
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=2,
        linear_num_heads=2,
        linear_key_head_dim=4,
        linear_value_head_dim=6,
        sleep_window=96,
        sleep_passes=2,
        sleep_rounds=1,
    )
    model = NapForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("embeddings"):
                parameter.normal_()
            elif parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            elif name.endswith(("conv_weight", "out_proj.weight", "down.weight")):
                parameter.mul_(3)
            if name.endswith("dt_bias"):
                parameter.uniform_(-2.0, 0.5)
        model.get_output_embeddings().weight[tokenizer.eos_token_id] *= 20
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Says(LogitsProcessor):
    """Makes the model write these tokens, one after the other; ``before`` is called with each one's number."""

    def __init__(self, ids: Sequence[int], before: Callable[[int], None] = lambda number: None) -> None:
        self._ids, self._said, self._before = list(ids), 0, before

    def __call__(self, input_ids: Any, scores: Any) -> Tensor:
        """Scores that leave one token."""
        self._before(self._said)
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self._ids[self._said]] = 0.0
        self._said += 1
        return forced


def saying(memory: SleepMemory, text: str, before: Callable[[int], None] = lambda number: None) -> dict[str, Any]:
    """Options of ``Session.generate`` with which the model answers this."""
    ids = memory.chat.message("assistant", text)[1:]
    return {"logits_processor": [Says(ids, before)], "max_new_tokens": len(ids)}


def config(thread: str = "t", **more: str) -> RunnableConfig:
    """Names a thread."""
    return RunnableConfig(configurable={"thread_id": thread, **more})


def say(
    chat: ChatSleep,
    messages: Sequence[BaseMessage],
    answer: str | None = None,
    thread: str = "t",
    *,
    handle: Handle | None = None,
    **more: str,
) -> AIMessage:
    """The model's answer to a list; with ``answer``, it is made to say that.

    Args:
        handle: as the agent's state has it.  more: of the config, such as ``user_id``.
    """
    options: dict[str, Any] = {} if handle is None else {"agentsleep": Link(handle=handle)}
    if answer is not None:
        options |= saying(chat.memory, answer)
        options["max_tokens"] = options.pop("max_new_tokens")
    return chat.invoke(list(messages), config(thread, **more), **options)


def handle_in(answer: AIMessage) -> Handle:
    """What an agent's state would keep of an answer."""
    handle: Handle = answer.response_metadata["agentsleep"]
    return handle


def humans(*texts: str) -> list[BaseMessage]:
    """Messages of the user."""
    return [HumanMessage(text) for text in texts]


def names(memory: SleepMemory, **whose: str) -> list[str]:
    """The threads of the archive."""
    return [record.scope.thread for record in memory.sessions(**whose)]


def log_of(memory: SleepMemory, thread: str = "t", **whose: str) -> list[Event]:
    """The log of a thread, as the archive has it."""
    archive = memory.archive.user(whose.get("tenant", "default"), whose.get("user", "default"))
    record = archive.find(thread)
    assert record is not None
    return archive.events(record.id)


def said_in(memory: SleepMemory, thread: str = "t", **whose: str) -> list[tuple[str | None, str | None]]:
    """Who said what in a thread; of a turn in parts, its last one tells."""
    events = log_of(memory, thread, **whose)
    spoken = [e for e in events if e.kind == "tokens" and e.token_ids and not e.data.get("open")]
    return [(event.role, event.text) for event in spoken]


def heard(memory: SleepMemory, thread: str = "t", **whose: str) -> list[Logged]:
    """The messages of a thread, as alignment sees them."""
    return logged(log_of(memory, thread, **whose))


def same(a: FastWeights, b: FastWeights) -> bool:
    """Bit-equal."""
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def assert_whole(session: Session) -> None:
    """What holds of any session at any time: the head is what its log computes to, the window what is left of it."""
    state = session.state
    assert same(session.replay(), state)
    stream = [token for event in session.archive.events(session.id) for token in event.token_ids]
    place = session.position()
    assert session.window.ids[place.pinned_tokens :] == stream[place.slept_on :]
