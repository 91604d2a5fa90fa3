"""What a model still knows of a window that was slept on and evicted: by passes, and with S dropped.

Every score is of one item under every condition: a number of passes, or None, which is N = 1 with all fast weights set
to zero. Larger is better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from agentsleep.auto import Speaking
from agentsleep.errors import SettingsError
from agentsleep.evals.made_texts import cut, facts, head_of, story
from agentsleep.sleep import passes_over, sleep
from agentsleep.state import FastWeights
from agentsleep.tasks.base import Batch, Difficulty, Task
from agentsleep.tokens import encode_text
from agentsleep.training.episode import LanguageModel, read_batch

ASKED = 4  # of them
LONGEST = 256  # tokens of a window of text
EPISODES = 8  # of a task, a batch
_READOUTS = 512  # positions whose logits are held at a time
Condition = int | None
Report = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A measure, item by item.

    unit: ``share`` (1 right, 0 wrong), ``nats``, or ``nats a token`` (log-probabilities: a perplexity is made of them).
    values: for each condition ``[items]``.  groups: ``[items]``, which items were drawn together.
    chance: the mean of whoever knows nothing, where it is known.
    """

    name: str
    what: str
    unit: str
    values: dict[Condition, NDArray[np.float64]]
    groups: NDArray[np.int64]
    chance: float | None = None


def left_behind(backbone: Speaking, ids: Tensor, passes: Sequence[int]) -> dict[Condition, FastWeights]:
    """What a window ``[1, T]`` leaves, for each number of passes, which include 1, and with S dropped."""
    states: dict[Condition, FastWeights] = {}
    for n, (_, slept) in enumerate(passes_over(backbone, ids, FastWeights()), 1):
        if n == 1:
            zeros = {name: torch.zeros_like(t) for name, t in slept.state.only("recurrent").items()}
            states[None] = slept.state.merged(zeros)
        if n in passes:
            states[n] = slept.state
        if n == max(passes):
            break
    return states


def log_probabilities(
    backbone: Speaking, rows: Sequence[Sequence[int]], starts: Sequence[int], state: FastWeights, device: torch.device
) -> list[Tensor]:
    """For each row of token ids, read from ``state`` ``[1, ...]``, the log-probabilities of its tokens from a start."""
    longest = max(map(len, rows))
    # Padding behind the end changes nothing before it, and the state that it leaves is thrown away.
    ids = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows], device=device)
    wide = FastWeights({n: t.expand(len(rows), *t.shape[1:]) if t.ndim else t for n, t in state.items()})
    hidden = sleep(backbone, ids, wide, passes=1).hidden
    places = [(i, t) for i, (row, start) in enumerate(zip(rows, starts, strict=True)) for t in range(start, len(row))]
    row, at = torch.tensor(places, device=device).T
    found = []
    for r, t in zip(row.split(_READOUTS), at.split(_READOUTS), strict=True):
        logits = backbone.readout(hidden[r, t - 1]).float()
        found.append(logits.log_softmax(-1).gather(-1, ids[r, t][:, None])[:, 0])
    return list(torch.cat(found).split([len(row) - start for row, start in zip(rows, starts, strict=True)]))


def recall(
    backbone: Speaking,
    tokenizer: PreTrainedTokenizerFast,
    *,
    window: int,
    passes: Sequence[int],
    samples: int,
    seed: int,
    device: torch.device,
    report: Report,
) -> tuple[Scores, Scores]:
    """Facts such as "The code of the red door is 4821." in a window of their own; then, in the next, whether the model
    goes on "The code of the red door is" rather with the right code than with another of the same window.

    Returns:
        How often the right one is likeliest; and how much likelier it is than the others are on average, in nats, which
        is 0 for whoever knows nothing, however bold.

    Raises:
        SettingsError: not even two facts fit into the window.
    """
    head = head_of(tokenizer)
    rng = np.random.default_rng([seed, 0x66616374])
    picked: dict[Condition, list[float]] = {}
    odds: dict[Condition, list[float]] = {}
    groups, chances = [], []
    for sample in range(samples):
        told = facts(tokenizer, rng, window - len(head))
        if len(told) < 2:
            raise SettingsError(
                f"the window has {window} tokens, too few for two facts of this tokenizer; give a larger one (window=N)"
            )
        ids = [*head, *(token for parts in told for part in parts for token in part)]
        states = left_behind(backbone, torch.tensor([ids], device=device), passes)
        asked = rng.permutation(len(told))[:ASKED].tolist()
        rows = [[*head, *told[i][0], *value] for i in asked for _, value, _ in told]
        starts = [len(head) + len(told[i][0]) for i in asked for _ in told]
        for condition, state in states.items():
            found = [float(t.sum()) for t in log_probabilities(backbone, rows, starts, state, device)]
            by_question = np.array(found).reshape(len(asked), len(told))
            for which, scores in zip(asked, by_question, strict=True):
                others = np.delete(scores, which)
                known = bool(np.isfinite(scores).all())
                best = scores == scores.max()  # of several that are equally likely, one is picked blindly
                picked.setdefault(condition, []).append(best[which] / best.sum() if known else np.nan)
                odds.setdefault(condition, []).append(scores[which] - others.mean() if known else np.nan)
        groups += [sample] * len(asked)
        chances += [1 / len(told)] * len(asked)
        report((sample + 1) / samples)
    group = np.array(groups)
    most = round(1 / min(chances))
    return (
        Scores(
            name="recall",
            what=f"the right one of up to {most} codes of an evicted window",
            unit="share",
            values={condition: np.array(values) for condition, values in picked.items()},
            groups=group,
            chance=float(np.mean(chances)),
        ),
        Scores(
            name="log-odds",
            what="log-probability of the right code less the mean of the other codes",
            unit="nats",
            values={condition: np.array(values) for condition, values in odds.items()},
            groups=group,
            chance=0.0,
        ),
    )


def perplexity(
    backbone: Speaking,
    tokenizer: PreTrainedTokenizerFast,
    *,
    window: int,
    passes: Sequence[int],
    samples: int,
    seed: int,
    device: torch.device,
    report: Report,
    text: str | None = None,
) -> Scores:
    """Log-probability a token of a window of text, given the state that the window before it left.

    Args:
        text: cut into disjoint pairs of windows; None makes texts in which a few people's facts come again and again.

    Raises:
        SettingsError: the text is too short.
    """
    head = head_of(tokenizer)
    longest = min(window, LONGEST) - len(head)
    if text is None:
        rng = np.random.default_rng([seed, 0x74657874])
        drawn = [encode_text(tokenizer, story(rng, 2 * longest))[: 2 * longest] for _ in range(samples)]
        pairs = [(ids[:longest], ids[longest:]) for ids in drawn]
    else:
        pairs = cut(encode_text(tokenizer, text), longest, samples)
    values: dict[Condition, list[float]] = {}
    for done, (before, after) in enumerate(pairs, 1):
        states = left_behind(backbone, torch.tensor([[*head, *before]], device=device), passes)
        row, start = [*head, *after], max(1, len(head))
        for condition, state in states.items():
            found = float(log_probabilities(backbone, [row], [start], state, device)[0].mean())
            values.setdefault(condition, []).append(found if np.isfinite(found) else np.nan)
        report(done / len(pairs))
    return Scores(
        name="perplexity",
        what=f"of a window of {len(pairs[0][1])} tokens, {'your text' if text is not None else 'a text of our own'}, "
        "behind an evicted one",
        unit="nats a token",
        values={condition: np.array(found) for condition, found in values.items()},
        groups=np.arange(len(pairs)),
    )


def task_questions(
    model: LanguageModel,
    task: Task,
    difficulty: Difficulty,
    *,
    passes: Sequence[int],
    samples: int,
    seed: int,
    device: torch.device,
    report: Report,
) -> list[Scores]:
    """The questions of a task that the model was trained on: all of them, and by depth where there are several. With S
    dropped, they are asked from an empty state."""
    rng = np.random.default_rng([seed, 0x7461736B])
    right: dict[Condition, list[Any]] = {}
    depths, groups = [], []
    for done in range(0, samples, EPISODES):
        batch = task.batch(rng, min(EPISODES, samples - done), difficulty).to(str(device))
        blank = Batch(context=[], questions=batch.questions)
        empty = read_batch(model, blank, passes=1)
        answers = empty.depth > 0
        right.setdefault(None, []).append(empty.correct[answers].double().cpu().numpy())
        depths.append(empty.depth[answers].cpu().numpy())
        groups.append(empty.row[answers].cpu().numpy() + done)
        for n in passes:
            read = read_batch(model, batch, passes=n)
            found = read.correct[read.depth > 0].double().cpu().numpy()
            right.setdefault(n, []).append(found[len(found) - len(depths[-1]) :])  # the context may be asked of, too
        report(min(1.0, (done + EPISODES) / samples))
    values = {condition: np.concatenate(parts) for condition, parts in right.items()}
    depth, group = np.concatenate(depths), np.concatenate(groups)
    each = sorted({int(d) for d in depth})
    asked = [(task.name, "all questions", depth > 0)]
    asked += [(f"{task.name}, depth {d}", f"questions of depth {d}", depth == d) for d in each if len(each) > 1]
    return [
        Scores(
            name=name,
            what=f"{what} about {difficulty.windows} evicted window{'s' * (difficulty.windows > 1)}",
            unit="share",
            values={condition: found[these] for condition, found in values.items()},
            groups=group[these],
            chance=task.chance(),
        )
        for name, what, these in asked
    ]
