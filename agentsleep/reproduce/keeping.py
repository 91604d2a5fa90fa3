"""The measure ``retention``: a fact is asked after more and more later sleeps, and from a state that was saved."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

from agentsleep.gauge import saturation
from agentsleep.models.nap import NapForCausalLM
from agentsleep.reproduce.subject import EPISODES, Row, Settings, Subject, fresh
from agentsleep.sleep import sleep
from agentsleep.state import FastWeights
from agentsleep.tasks.base import Batch, Difficulty, Window
from agentsleep.training.episode import read_batch
from agentsleep.training.runs import MODEL, load_model


def retention(subject: Subject, settings: Settings) -> list[Row]:
    """Recall of the first window's facts.

    settings: ``later`` (numbers of later sleeps), ``forms`` (what those windows hold), ``batches``, ``restored``
    (numbers of later sleeps after which the state is also saved, loaded by another process and asked there).
    ``saturation`` is that of the state (:mod:`agentsleep.gauge`), ``facts`` how many it was told in all.
    """
    task = subject.other_task({"ask": "first"})
    eviction = subject.config.eviction
    rows = []
    for form in settings["forms"]:
        for later in settings["later"]:
            rng = fresh(subject)
            difficulty = Difficulty(windows=1 + later, depth=1, form=form)
            batches = [task.batch(rng, EPISODES, difficulty) for _ in range(settings["batches"])]
            facts = subject.config.task["facts"] * (1 + later if form == "facts" else 1)
            for passes in subject.arm.passes:
                shared = {"form": form, "later": later, "facts": facts, "passes": passes}
                if eviction != "window":
                    rows.append({**shared, **_baseline(subject, batches, eviction)})
                    continue
                states = [_slept(subject.model, batch, passes) for batch in batches]
                rows.append({**shared, "restored": False, **_asked(subject.model, batches, states)})
                if later in settings["restored"]:
                    rows.append({**shared, "restored": True, **_in_another_process(subject, batches, states)})
    return rows


def _baseline(subject: Subject, batches: list[Batch], eviction: str) -> Row:
    with torch.inference_mode():
        outcomes = [read_batch(subject.model, batch, passes=1, eviction=eviction) for batch in batches]
    correct = torch.cat([outcome.correct for outcome in outcomes])
    return {"restored": False, **_rate(correct)}


def _slept(model: NapForCausalLM, batch: Batch, passes: int) -> FastWeights:
    state = FastWeights()
    with torch.inference_mode():
        for window in batch.context:
            state = sleep(model, window.ids, state, passes=passes, mask=window.mask).state
    return state


def _asked(model: NapForCausalLM, batches: list[Batch], states: list[FastWeights]) -> Row:
    correct = _answers(model, [batch.questions for batch in batches], states)
    gauge = sum(saturation(state).overall for state in states) / len(states)
    return {**_rate(correct), "saturation": round(gauge, 4)}


def _answers(model: NapForCausalLM, questions: Sequence[Sequence[Window]], states: list[FastWeights]) -> Tensor:
    with torch.inference_mode():
        return torch.cat(
            [
                read_batch(model, Batch(context=[], questions=asked), passes=1, state=state).correct
                for asked, state in zip(questions, states, strict=True)
            ]
        )


def _in_another_process(subject: Subject, batches: list[Batch], states: list[FastWeights]) -> Row:
    """The same questions, from files, in a Python process that has never seen the windows."""
    paths = []
    for i, state in enumerate(states):
        paths.append(subject.folder / f"state-{i}.safetensors")
        paths[-1].write_bytes(state.save())
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            questions = [list(batch.questions) for batch in batches]
            correct = pool.submit(_restored, subject.folder / MODEL, paths, questions).result()
    finally:
        for path in paths:
            path.unlink()
    return _rate(torch.tensor(correct))


def _restored(model: Path, states: list[Path], questions: list[list[Window]]) -> list[bool]:
    torch.set_num_threads(1)
    loaded = [FastWeights.load(path.read_bytes()) for path in states]
    answers: list[bool] = _answers(load_model(model), questions, loaded).tolist()
    return answers


def _rate(correct: Tensor) -> Row:
    return {"accuracy": round(float(correct.float().mean()), 5), "questions": correct.numel()}
