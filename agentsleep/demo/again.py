"""The same questions in a new process, which has nothing but the archive.

``python -m agentsleep.demo.again`` reads a request from stdin and writes its answers to stdout, both JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from agentsleep.demo.asking import ask_all
from agentsleep.errors import AgentsleepError
from agentsleep.memory import SleepMemory

LIMIT_S = 300.0


@dataclass(frozen=True)
class Reopened:
    """What the new process said: by thread the answers, and logits ``[questions, vocabulary]``."""

    pid: int
    answers: dict[str, list[str]]
    logits: dict[str, Tensor]


def in_new_process(archive: Path, model: Path | None, questions: Mapping[str, Sequence[str]]) -> Reopened:
    """Starts a process that opens the threads of an archive and asks each its questions.

    Raises:
        AgentsleepError: the process failed.
    """
    threads = {thread: list(texts) for thread, texts in questions.items()}
    with tempfile.TemporaryDirectory(prefix="agentsleep-") as folder:
        target = Path(folder) / "logits.safetensors"
        request = {
            "archive": str(archive),
            "model": None if model is None else str(model),
            "cpu_threads": torch.get_num_threads(),  # equal threads, equal bits
            "logits": str(target),
            "questions": threads,
        }
        command = [sys.executable, "-m", "agentsleep.demo.again"]
        try:
            done = subprocess.run(
                command, input=json.dumps(request), capture_output=True, text=True, timeout=LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise AgentsleepError(
                f"the new process gave no answers within {LIMIT_S:g} s; ask fewer questions"
            ) from None
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["nothing on stderr"])[-1]
            raise AgentsleepError(f"the new process that reopens {archive} ended with {done.returncode}: {said}")
        reply = json.loads(done.stdout)
        loaded = load_file(target)
    return Reopened(reply["pid"], reply["answers"], {thread: loaded[f"{i}"] for i, thread in enumerate(threads)})


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Does what a request asks for; writes the logits to the file that it names."""
    torch.set_num_threads(request["cpu_threads"])
    answers: dict[str, list[str]] = {}
    logits: dict[str, Tensor] = {}
    with SleepMemory(request["model"], archive=Path(request["archive"])) as memory:
        for i, (thread, texts) in enumerate(request["questions"].items()):
            with memory.session(thread, create=False) as session:
                answers[thread], logits[f"{i}"] = ask_all(memory, session, texts)
    save_file(logits, request["logits"])
    return {"pid": os.getpid(), "answers": answers}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(answer(json.load(sys.stdin))))
