"""What a session adds to a turn: a message read and an answer written, against the same tokens through ``generate``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice, product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import torch

from agentsleep.archive import Archive
from agentsleep.archive.database import Synchronous
from agentsleep.chat import CHAT_TEMPLATE
from agentsleep.errors import SettingsError
from agentsleep.memory import SleepMemory
from agentsleep.policy import SleepPolicy
from agentsleep.tokens import END, build_tokenizer

BAR = 1.05  # of the plain turn's time, at most
PLAIN = "generate"
WARM = 1  # repeats before any is counted
WORDS = 1784  # with 256 bytes and 8 markers a vocabulary of 2,048
_SIZES: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "max_position_embeddings": 4096,
    "sleep_window": 512,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"] * 2,
}


@dataclass
class Taken:
    """What turns of one kind took: seconds by the clock, those until the message was read, and seconds of the CPU."""

    clock: list[float] = field(default_factory=list)
    read: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def row(self, name: str, plain: Taken) -> dict[str, Any]:
        """Medians, in milliseconds, and how many times those of ``plain`` they are."""
        clock, cpu = median(self.clock), median(self.cpu)
        ratio = clock / median(plain.clock)
        return {
            "turn": name,
            "ms": 1000 * clock,
            "read_ms": 1000 * median(self.read) if self.read else None,
            "cpu_ms": 1000 * cpu,
            "ratio": ratio,
            "cpu_ratio": cpu / median(plain.cpu),
        }


def bench_turn(
    model: str | Path | None = None,
    *,
    prefill: int = 256,
    tokens: int = 64,
    repeats: int = 9,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Times turns of a session, archive on disk and all, and the same turns through ``model.generate``, in turn.

    In a repeat each kind begins from nothing: a new thread in an archive that commits with ``synchronous`` NORMAL, one
    with FULL, and ``generate`` with an empty cache on the very tokens that the session's window holds. All write
    greedily with the same weights in memory, and who begins changes from repeat to repeat. Medians count. A session
    leaves a state that the next turn goes on from, in which all it wrote has been read; ``generate`` never reads the
    last token that it writes.

    Args:
        model: a checkpoint directory; None makes a qwen3_5 of 8 blocks, 256 dimensions and 2,048 tokens, random, fp32.
        prefill: tokens before the answer, the chat format's markers included; a few more where no text has so many.
        tokens: of the answer.
        repeats: timed turns of each kind.
        seed: of the model, where it is made, and of the text.
        progress: called with the part that is done, 0 to 1.

    Returns:
        ``{"rows", "ratio", "bars", "same_tokens", "model", "parameters", "window", "prefill", "tokens", "repeats",
        "counted", "threads", "torch"}``. A row is ``{"turn", "ms", "read_ms", "cpu_ms", "ratio", "cpu_ratio"}``; ratios
        are to ``generate``, by the clock and by the seconds that the CPU worked, which a busy machine disturbs less and
        in which no wait for a disk is counted. The document's ratio is that of NORMAL, by the clock. same_tokens:
        whether the sessions always wrote what ``generate`` did. counted: repeats in which all wrote equally many.

    Raises:
        SettingsError: a setting out of its range, a turn that does not fit into the model's window, or no repeat in
            which all wrote equally many tokens.
        CheckpointMissing, CheckpointDamaged: the model cannot be loaded.
    """
    settings = (("prefill", prefill, 8), ("tokens", tokens, 2), ("repeats", repeats, 1), ("seed", seed, 0))
    for name, value, least in settings:
        if value < least:
            raise SettingsError(f"{name} is {value}; it must be at least {least}")
    report = progress or (lambda part: None)
    with TemporaryDirectory(prefix="agentsleep-turn-") as folder:
        place = make_model(Path(folder) / "model", seed) if model is None else model
        with _memories(place, Path(folder)) as memories:
            memory = next(iter(memories.values()))
            message, ids = _message(memory, prefill, seed)
            window = memory.backend.settings.window
            if len(ids) + tokens + 2 > window:  # the end of the turn has to fit, too
                raise SettingsError(
                    f"a turn of {len(ids)} + {tokens} tokens does not fit into the window of {window}; ask for fewer"
                )
            taken = {name: Taken() for name in (*memories, PLAIN)}
            same = []
            for repeat in range(repeats + WARM):
                said = _repeat(memories, message, ids, tokens, repeat, taken)
                same.append(all(one == said[PLAIN] for one in said.values()))
                report((repeat + 1) / (repeats + WARM))
            backend = memory.backend
    rows = [one.row(name, taken[PLAIN]) for name, one in taken.items()] if taken[PLAIN].clock else []
    if not rows:
        raise SettingsError(f"the sessions and generate never wrote equally many of {tokens} tokens; ask for fewer")
    return {
        "rows": rows,
        "ratio": rows[0]["ratio"],
        "bars": [
            {"bar": row["turn"], "most": BAR, "ratio": row["ratio"], "passed": row["ratio"] <= BAR} for row in rows[:-1]
        ],
        "same_tokens": all(same),
        "model": "random qwen3_5" if model is None else str(model),
        "parameters": backend.model.num_parameters(),
        "window": window,
        "prefill": len(ids),
        "tokens": tokens,
        "repeats": repeats,
        "counted": len(taken[PLAIN].clock),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def make_model(folder: Path, seed: int = 0) -> Path:
    """A random model of a size at which a turn's time is the model's, as it is in life, with a tokenizer of words."""
    from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

    tokenizer = build_tokenizer(_words(), CHAT_TEMPLATE)
    end = tokenizer.convert_tokens_to_ids(END)
    config = Qwen3_5TextConfig(
        **_SIZES, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, eos_token_id=end
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Qwen3_5ForCausalLM(config)
    with torch.no_grad():
        made.lm_head.weight[end] = 0.0  # its logit is never the largest, so that no turn ends early
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _words() -> list[str]:
    syllables = ("ba", "ko", "mi", "ru", "te", "sa", "no", "li", "du", "fe", "ga", "hi")
    return [f" {''.join(parts)}" for parts in islice(product(syllables, repeat=4), WORDS)]


@contextmanager
def _memories(model: str | Path, folder: Path) -> Iterator[dict[str, SleepMemory]]:
    """A memory for each kind of archive, all with the same weights, so that no side has luckier addresses."""
    made: dict[str, SleepMemory] = {}
    try:
        for synchronous in reversed(get_args(Synchronous)):
            memory = SleepMemory(model, archive=":memory:", policy=SleepPolicy(trigger=None))
            memory.archive.close()
            memory.archive = Archive(folder / f"{synchronous}.db", synchronous=synchronous)
            if made:
                first = next(iter(made.values()))
                memory.backend, memory.chat = first.backend, first.chat
            made[f"session, {synchronous}"] = memory
        yield made
    finally:
        for memory in made.values():
            memory.close()


def _message(memory: SleepMemory, prefill: int, seed: int) -> tuple[str, list[int]]:
    """A user's text, and what a session's window holds when the answer to it begins: at least ``prefill`` tokens."""
    known = _words()
    words = [known[i] for i in np.random.default_rng(seed).integers(len(known), size=prefill)]
    low, high = 1, len(words)
    while low < high:  # the shortest text that is long enough
        half = (low + high) // 2
        found = len(memory.chat.message("user", "".join(words[:half]).strip())) + len(memory.chat.prompt())
        low, high = (low, half) if found >= prefill else (half + 1, high)
    text = "".join(words[:low]).strip()
    with memory.session("what a window holds") as session:
        session.add("user", text)
        return text, [*session.window.ids, *memory.chat.prompt()]


def _repeat(
    memories: dict[str, SleepMemory],
    message: str,
    ids: Sequence[int],
    tokens: int,
    repeat: int,
    taken: dict[str, Taken],
) -> dict[str, list[int]]:
    """A turn of each kind; returns what they wrote."""
    said: dict[str, list[int]] = {}
    spent: dict[str, tuple[float, ...]] = {}
    kinds = [*taken]
    first = repeat % len(kinds)
    for name in (*kinds[first:], *kinds[:first]):
        if name == PLAIN:
            said[name], spent[name] = _plain(next(iter(memories.values())), ids, tokens)
        else:
            said[name], spent[name] = _turn(memories[name], message, ids, tokens, repeat)
    if repeat >= WARM and len({len(one) for one in said.values()}) == 1:
        for name, (clock, cpu, *read) in spent.items():
            taken[name].clock.append(clock)
            taken[name].cpu.append(cpu)
            taken[name].read += read
    return said


def _turn(
    memory: SleepMemory, message: str, ids: Sequence[int], tokens: int, repeat: int
) -> tuple[list[int], tuple[float, ...]]:
    """What a session wrote, and what it took."""
    with memory.session(f"turn {repeat}") as session:
        began, cpu = time.perf_counter(), time.process_time()
        session.add("user", message)
        read = time.perf_counter()
        answer = session.generate(max_new_tokens=tokens)
        ended, spent = time.perf_counter(), time.process_time() - cpu
        return session.window.ids[len(ids) : len(ids) + answer.tokens], (ended - began, spent, read - began)


def _plain(memory: SleepMemory, ids: Sequence[int], tokens: int) -> tuple[list[int], tuple[float, ...]]:
    """What ``generate`` wrote, and what it took."""
    model: Any = memory.backend.model
    began, cpu = time.perf_counter(), time.process_time()
    given = memory.backend.row(ids)
    mask = torch.ones_like(given)
    end = memory.chat.end
    out = model.generate(
        given, attention_mask=mask, max_new_tokens=tokens, do_sample=False, eos_token_id=end, pad_token_id=end
    )
    spent = time.perf_counter() - began, time.process_time() - cpu
    return out[0, len(ids) :].tolist(), spent
