"""Does deeper sleep help this model? Measured on what was evicted, for any model that can sleep."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from agentsleep.backends import Backend, load_backend
from agentsleep.backends.loading import shipped_model
from agentsleep.errors import CheckpointMissing, SettingsError, UntrainedSleep
from agentsleep.evals.evicted import Scores, perplexity, recall, task_questions
from agentsleep.evals.paired import RESAMPLES
from agentsleep.evals.verdicts import judged
from agentsleep.models.nap import NapForCausalLM
from agentsleep.sleep import check_depth
from agentsleep.training.config import config_from
from agentsleep.training.episode import LanguageModel
from agentsleep.training.runs import final_difficulty, find_model, load_subject, make_task
from agentsleep.training.subjects import StockSubject

FEWEST = 10  # samples; an interval of fewer would be too narrow

Report = Callable[[float], None]
Measure = Callable[[Report], Sequence[Scores]]


def probe(
    backend: Backend,
    *,
    passes: Sequence[int] = (1, 2, 4),
    samples: int = 100,
    seed: int = 0,
    text: str | None = None,
    record: Mapping[str, Any] | None = None,
    progress: Report | None = None,
) -> dict[str, Any]:
    """Measures what a model still knows of an evicted window after N = 1, after more passes, and with S dropped; for a
    memory, give ``memory.backend``.

    *Recall*: facts in one window, then in the next the choice between their codes. *Log-odds*: the same, in nats.
    *Perplexity*: of a window behind another. And, where ``record`` names a built-in task, its own questions. Texts are
    plain English without the chat format. All conditions share all items; differences have 95 % intervals by a paired
    bootstrap over windows. Each interval is for itself: of many, one in twenty misses.

    Args:
        passes: numbers of passes to compare; 1 is always among them.
        samples: windows with facts, pairs of windows of text, and episodes of the task; at least 10.
        seed: of texts, episodes and bootstrap.
        text: for the perplexity; None makes texts.
        record: the training record of the model.
        progress: called with the part that is done, 0 to 1.

    Returns:
        ``{"fingerprint", "window", "feedback", "loop", "eviction", "passes", "samples", "seed", "resamples",
        "measures", "decisive", "verdict"}``: the measures as :func:`agentsleep.evals.verdicts.judged` gives them; the
        verdict is that of the decisive one, the task's questions where there are some, else recall.

    Raises:
        SettingsError: a setting out of its range, a window too small for two facts, or a text that is too short.
        SleepFailed: the ordinary pass gives NaN or Inf.
    """
    numbers = _checked(passes, samples, seed)
    device, settings = backend.device, backend.settings
    common: dict[str, Any] = {
        "window": settings.window,
        "passes": numbers,
        "samples": samples,
        "seed": seed,
        "device": device,
    }
    model = backend.model
    reader = model if isinstance(model, NapForCausalLM) else StockSubject(model, settings)
    measures: list[Measure] = [] if record is None else [_task(reader, record, numbers, samples, seed, device)]
    measures += [
        lambda report: recall(backend.backbone, backend.tokenizer, **common, report=report),
        lambda report: [perplexity(backend.backbone, backend.tokenizer, **common, text=text, report=report)],
    ]
    found = _measured(measures, seed, len(backend.tokenizer), progress)
    return {
        "fingerprint": backend.fingerprint,
        "window": settings.window,
        "feedback": settings.feedback,
        "loop": settings.loop and list(settings.loop),
        "eviction": settings.eviction,
        **_document(found, numbers, samples, seed),
    }


def probe_model(
    model: str | Path | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    **asked: Any,
) -> dict[str, Any]:
    """Loads a model and measures it, see :func:`probe`, which takes ``asked``. A model that lies in the folder of its
    training run is also asked its task's questions; one without a tokenizer is asked these alone.

    Args:
        model: a checkpoint directory, the folder of a finished run, a name on the hub, or None for the shipped model.
        settings: fields of :class:`agentsleep.backends.SleepSettings` in place of the checkpoint's, such as
            ``{"feedback": "tokens"}``.
        device, dtype: as for :func:`agentsleep.backends.load_backend`.

    Returns:
        The document of :func:`probe`, with ``"model"``; without what belongs to the text where there is no tokenizer.

    Raises:
        SettingsError: a setting out of its range, or one that this model does not know.
        CheckpointMissing, CheckpointDamaged, UnsupportedModel: the model cannot be loaded, or cannot sleep.
    """
    named = "nap-mini" if model is None else str(model)
    place, record = _found(shipped_model() if model is None else model)
    if record is not None and isinstance(place, Path) and not (place / "tokenizer.json").is_file():
        return {"model": named, **_without_tokenizer(place, record, settings, device, **asked)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrainedSleep)  # whether it helps all the same is what is asked here
        backend = load_backend(place, settings=settings, device=device, dtype=dtype)
    return {"model": named, **probe(backend, record=record, **asked)}


def _checked(passes: Sequence[int], samples: int, seed: int) -> list[int]:
    if not passes:
        raise SettingsError("no passes to compare; give at least one number above 1, such as 2")
    for n in passes:
        check_depth(n)
    if samples < FEWEST or seed < 0:
        raise SettingsError(f"samples is {samples} and seed is {seed}; they must be at least {FEWEST} and 0")
    if max(passes) == 1:
        raise SettingsError("passes is 1 alone, with nothing to compare it to; give a number above 1, such as 2")
    return sorted({1, *passes})


def _found(model: str | Path) -> tuple[str | Path, dict[str, Any] | None]:
    """Where the checkpoint lies, and its training record if it has one."""
    folder = Path(model).expanduser()
    try:
        return find_model(folder)
    except CheckpointMissing:
        return model, None


def _without_tokenizer(
    place: Path,
    record: Mapping[str, Any],
    settings: Mapping[str, Any] | None,
    device: str,
    *,
    passes: Sequence[int] = (1, 2, 4),
    samples: int = 100,
    seed: int = 0,
    text: str | None = None,
    progress: Report | None = None,
) -> dict[str, Any]:
    numbers = _checked(passes, samples, seed)
    given = {"settings": settings, "text": text, "device": None if device == "cpu" else device}
    if wrong := [name for name, value in given.items() if value]:
        raise SettingsError(
            f"the model at {place} has no tokenizer and is asked the questions of its task alone, as it was trained; "
            f"leave out {', '.join(wrong)}"
        )
    subject = load_subject(place)
    measure = _task(subject, record, numbers, samples, seed, torch.device("cpu"))
    return _document(_measured([measure], seed, None, progress), numbers, samples, seed)


def _task(
    reader: LanguageModel,
    record: Mapping[str, Any],
    passes: Sequence[int],
    samples: int,
    seed: int,
    device: torch.device,
) -> Measure:
    config = config_from(record["config"])
    task, difficulty = make_task(record["task"], config.task), final_difficulty(config)
    asked = partial(task_questions, passes=passes, samples=samples, seed=seed, device=device)
    return lambda report: asked(reader, task, difficulty, report=report)


def _measured(
    measures: Sequence[Measure], seed: int, vocabulary: int | None, progress: Report | None
) -> list[dict[str, Any]]:
    report = progress or (lambda part: None)
    found = []
    with torch.inference_mode():
        for done, measure in enumerate(measures):
            for scores in measure(lambda part, done=done: report((done + part) / len(measures))):  # type: ignore[misc]
                guess = vocabulary if scores.unit == "nats a token" else None
                found.append(judged(scores, seed=seed, vocabulary=guess))
    return found


def _document(measures: Sequence[Mapping[str, Any]], passes: Sequence[int], samples: int, seed: int) -> dict[str, Any]:
    return {
        "passes": list(passes),
        "samples": samples,
        "seed": seed,
        "resamples": RESAMPLES,
        "measures": list(measures),
        "decisive": measures[0]["measure"],
        "verdict": measures[0]["verdict"],
    }
