from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agentsleep.errors import SettingsError
from agentsleep.models.nap import NapForCausalLM
from agentsleep.sleep import passes_over, sleep
from agentsleep.state import FastWeights
from agentsleep.tasks import IGNORE, Batch, Difficulty, Rule110, Window
from agentsleep.training.episode import Outcome, _traced, _walk, balanced, check_eviction, read_batch
from tests.tiny import RULES, assert_close, precise, some_state, tokens


def window(length: int, labelled: list[int], depth: int = 0, real: list[int] | None = None) -> Window:
    """Random tokens of two rows; labels and depths at some places; ``real`` tokens a row."""
    labels = torch.full((2, length), IGNORE)
    labels[:, labelled] = tokens(2, len(labelled))
    depths = torch.zeros(2, length, dtype=torch.long)
    depths[:, labelled] = depth
    mask = None if real is None else torch.arange(length) < torch.tensor(real)[:, None]
    if mask is not None:
        labels[~mask], depths[~mask] = IGNORE, 0
    return Window(ids=tokens(2, length), labels=labels, depth=depths, mask=mask)


def some_batch() -> Batch:
    return Batch(
        context=[window(6, []), window(7, [1, 2], real=[7, 4]), window(4, [3])],
        questions=[window(5, [2, 4], depth=1, real=[4, 5]), window(3, [0, 2], depth=2), window(4, [1], depth=3)],
    )


def by_hand(model: NapForCausalLM, batch: Batch, passes: int, rounds: int, state: FastWeights) -> tuple[Tensor, Tensor]:
    """Logits and labels in reading order, with the passes written out."""

    def light(shown: Window, state: FastWeights, passes: int) -> tuple[Tensor, FastWeights]:
        embedded = model.embeddings(shown.ids)
        first, after = model.blocks(embedded, state, shown.mask)
        hidden, tails = first, {n: t for n, t in after.items() if n.endswith("conv")}
        for _ in range(1, passes):
            s = FastWeights({n: t for n, t in after.items() if n.endswith("recurrent")})
            hidden, after = model.blocks(model.norm(hidden) + embedded, s, shown.mask)
        return model.lm_head(model.norm(first)), FastWeights({**after, **tails})

    logits, labels = [], []

    def answer(shown: Window, given: Tensor) -> None:
        for row in range(2):
            for place in range(shown.ids.shape[1]):
                if int(shown.labels[row, place]) != IGNORE:
                    logits.append(given[row, place])
                    labels.append(shown.labels[row, place])

    for shown in batch.context:
        given, state = light(shown, state, passes)
        answer(shown, given)
    tails = {n: t for n, t in state.items() if n.endswith("conv")}
    for _ in range(rounds - 1):
        for shown in batch.context:
            s = FastWeights({n: t for n, t in state.items() if n.endswith("recurrent")})
            _, state = light(shown, s, passes)
    state = FastWeights({**state, **tails})
    for shown in batch.questions:
        given, state = light(shown, state, passes)
        answer(shown, given)
    return torch.stack(logits), torch.stack(labels)


@pytest.mark.parametrize(("passes", "rounds"), [(1, 1), (4, 1), (1, 2), (2, 3)])
@pytest.mark.parametrize("rule", RULES)
def test_a_batch_is_read_as_by_hand(rule: str, passes: int, rounds: int) -> None:
    model, batch = precise(rule=rule), some_batch()
    opening = some_state(model, 2)
    for state in (None, opening):
        outcome = read_batch(model, batch, passes=passes, rounds=rounds, state=state)
        logits, labels = by_hand(model, batch, passes, rounds, state or FastWeights())
        assert_close(outcome.loss, loss_of(logits, labels, outcome.depth))
        assert torch.equal(outcome.correct, logits.argmax(-1) == labels)
        assert outcome.depth.tolist() == [0] * 6 + [1] * 3 + [2] * 4 + [3] * 2
        gradients = [
            torch.autograd.grad(loss, list(model.parameters()))
            for loss in (outcome.loss, loss_of(logits, labels, outcome.depth))
        ]
        for (name, _), a, b in zip(model.named_parameters(), *gradients, strict=True):
            assert_close(a, b, 1e-5)
            assert float(a.abs().max()) > 0, name


def loss_of(logits: Tensor, labels: Tensor, depth: Tensor) -> Tensor:
    """Answers count fully, everything else for a quarter, each by its own mean."""
    losses = -logits.float().log_softmax(-1)[torch.arange(len(labels)), labels]
    return losses[depth > 0].mean() + 0.25 * losses[depth == 0].mean()


def test_answers_outweigh_small_talk() -> None:
    losses, depth = torch.tensor([1.0, 3.0, 8.0, 4.0, 0.0]), torch.tensor([2, 5, 0, 0, 0])
    assert float(balanced(losses, depth)) == 2.0 + 0.25 * 4.0
    assert float(balanced(losses[:2], depth[:2])) == 2.0
    assert float(balanced(losses[2:], depth[2:])) == 4.0  # nothing but small talk: its plain mean


def test_depth_of_sleep_matters() -> None:
    model, batch = precise(), some_batch()
    losses = {
        float(read_batch(model, batch, passes=passes, rounds=rounds).loss.detach())
        for passes, rounds in ((1, 1), (2, 1), (4, 1), (1, 2), (2, 2))
    }
    assert len({round(loss, 4) for loss in losses}) == 5


def test_questions_see_the_context_through_the_state_alone() -> None:
    model = precise()
    batch = some_batch()
    quiet = [
        Window(ids=w.ids, labels=torch.full_like(w.labels, IGNORE), depth=w.depth, mask=w.mask) for w in batch.context
    ]
    seen = read_batch(model, Batch(context=quiet, questions=batch.questions), passes=2)
    unseen = read_batch(model, Batch(context=[], questions=batch.questions), passes=2)
    assert seen.correct.shape == unseen.correct.shape
    assert float((seen.loss - unseen.loss).abs().detach()) > 1e-3


def test_hits_by_depth() -> None:
    outcome = read_batch(precise(), some_batch(), passes=1)
    hits = outcome.hits()
    assert {depth: asked for depth, (_, asked) in hits.items()} == {0: 6, 1: 3, 2: 4, 3: 2}
    assert sum(right for right, _ in hits.values()) == int(outcome.correct.sum())
    assert all(0 <= right <= asked for right, asked in hits.values())


@pytest.mark.parametrize(("passes", "rounds"), [(0, 1), (1, 0), (True, 1), (1, 1.5)])
def test_depths_that_are_none(passes: int, rounds: int) -> None:
    with pytest.raises(SettingsError, match="at least 1"):
        read_batch(precise(), some_batch(), passes=passes, rounds=rounds)


def labelled(batch: Batch, row: int) -> tuple[list[int], list[int], list[int], list[int]]:
    """Of one row, without padding: all its tokens, the places of its labels among them, these labels, their depths."""
    ids: list[int] = []
    places, labels, depths = [], [], []
    for shown in (*batch.context, *batch.questions):
        for place in range(shown.ids.shape[1]):
            if shown.mask is not None and not shown.mask[row, place]:
                continue
            if int(shown.labels[row, place]) != IGNORE:
                places.append(len(ids))
                labels.append(int(shown.labels[row, place]))
                depths.append(int(shown.depth[row, place]))
            ids.append(int(shown.ids[row, place]))
    return ids, places, labels, depths


@pytest.mark.parametrize("pattern", ["asas", "aa"])
def test_what_is_never_evicted_is_one_text(pattern: str) -> None:
    """Every row alone, without padding, in one forward of the transformers interface."""
    model, batch = precise(pattern), some_batch()
    outcome = read_batch(model, batch, passes=1, eviction="never")
    logits, labels, depths = [], [], []
    for row in range(2):
        ids, places, right, deep = labelled(batch, row)
        logits.append(model(torch.tensor([ids])).logits[0, places])
        labels += right
        depths += deep
    assert len(ids) < sum(shown.ids.shape[1] for shown in (*batch.context, *batch.questions))  # there was padding
    all_logits = torch.cat(logits)
    assert_close(outcome.loss, loss_of(all_logits, torch.tensor(labels), torch.tensor(depths)))
    assert outcome.correct.tolist() == [int(a) == b for a, b in zip(all_logits.argmax(-1), labels, strict=True)]
    assert outcome.depth.tolist() == depths
    assert outcome.row.tolist() == [0] * len(labelled(batch, 0)[2]) + [1] * len(labelled(batch, 1)[2])
    evicted = read_batch(model, batch, passes=1)
    assert float((outcome.loss - evicted.loss).abs().detach()) > 1e-3


def test_what_is_never_evicted_needs_no_padding() -> None:
    model = precise()
    batch = Batch(context=[window(4, []), window(3, [])], questions=[window(2, [1], depth=1)])
    whole = torch.cat([shown.ids for shown in (*batch.context, *batch.questions)], 1)
    outcome = read_batch(model, batch, passes=1, eviction="never")
    losses = -model(whole).logits[:, -1].log_softmax(-1)[torch.arange(2), batch.questions[0].labels[:, 1]]
    assert_close(outcome.loss, losses.mean().float())


@pytest.mark.parametrize(("passes", "rounds"), [(1, 1), (4, 1), (2, 3)])
def test_where_the_state_goes_too_every_window_stands_alone(passes: int, rounds: int) -> None:
    model, batch = precise(), some_batch()
    outcome = read_batch(model, batch, passes=passes, rounds=rounds, eviction="state")
    logits, labels = [], []
    for shown in (*batch.context, *batch.questions):
        asked = shown.labels != IGNORE
        hidden = sleep(model, shown.ids, FastWeights(), passes=1, mask=shown.mask).hidden
        logits.append(model.readout(hidden)[asked])
        labels.append(shown.labels[asked])
    assert_close(outcome.loss, loss_of(torch.cat(logits), torch.cat(labels), outcome.depth))
    kept = read_batch(model, batch, passes=passes, rounds=rounds)
    assert float((outcome.loss - kept.loss).abs().detach()) > 1e-3


@pytest.mark.parametrize(
    ("eviction", "passes", "rounds", "words"),
    [
        ("never", 2, 1, "passes 2, rounds 1: what is never evicted is read once"),
        ("never", 1, 2, "passes 1, rounds 2: what is never evicted is read once"),
        ("hard", 1, 1, r"eviction 'hard' is not one of .*'window', 'never', 'state'"),
        ("", 1, 1, "eviction '' is not one of"),
    ],
)
def test_evictions_that_are_none(eviction: str, passes: int, rounds: int, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        read_batch(precise(), some_batch(), passes=passes, rounds=rounds, eviction=eviction)
    with pytest.raises(SettingsError, match=words):
        check_eviction(eviction, passes, rounds)


@pytest.mark.parametrize(("eviction", "passes", "rounds"), [("window", 2, 2), ("never", 1, 1), ("state", 2, 1)])
@pytest.mark.parametrize("rule", RULES)
def test_recomputing_changes_nothing_but_the_memory(rule: str, eviction: str, passes: int, rounds: int) -> None:
    model, batch = precise(rule=rule), some_batch()
    reads = 0

    def count(*_: object) -> None:
        nonlocal reads
        reads += 1

    model.layers[0].norm_mixer.register_forward_hook(count)  # type: ignore[union-attr]
    found = []
    for recompute in (False, True):
        reads = 0
        outcome = read_batch(model, batch, passes=passes, rounds=rounds, eviction=eviction, recompute=recompute)
        forward = reads
        found.append((outcome, torch.autograd.grad(outcome.loss, list(model.parameters()))))
        assert (reads > forward) == recompute  # what was not kept is computed again in the backward
    (plain, gradients), (again, others) = found
    assert torch.equal(plain.loss, again.loss)
    assert torch.equal(plain.correct, again.correct)
    for (name, _), a, b in zip(model.named_parameters(), gradients, others, strict=True):
        assert_close(a, b)
        assert float(a.abs().max()) > 0, name


def test_whole_episodes_are_counted() -> None:
    correct = torch.tensor([True, True, False, True, True, True, False])
    depth = torch.tensor([1, 1, 1, 2, 2, 1, 0])
    row = torch.tensor([0, 0, 1, 1, 0, 2, 2])
    outcome = Outcome(torch.zeros(()), correct, depth, row)
    assert outcome.exact() == {0: (0, 1), 1: (2, 3), 2: (2, 2)}
    assert outcome.hits() == {0: (0, 1), 1: (3, 4), 2: (2, 2)}


def test_answers_belong_to_their_episodes() -> None:
    outcome = read_batch(precise(), some_batch(), passes=1)
    wanted = []
    for shown in (*some_batch().context, *some_batch().questions):
        wanted += [r for r in range(2) for label in shown.labels[r] if int(label) != IGNORE]
    assert outcome.row.tolist() == wanted
    for depth, (right, episodes) in outcome.exact().items():
        rows = {r for r, d in zip(outcome.row.tolist(), outcome.depth.tolist(), strict=True) if d == depth}
        wrong = {
            r
            for r, d, c in zip(outcome.row.tolist(), outcome.depth.tolist(), outcome.correct.tolist(), strict=True)
            if d == depth and not c
        }
        assert (right, episodes) == (len(rows - wrong), len(rows))


def traced(shown: Window, told: dict[int, list[int]]) -> Window:
    """By pass, the places of the window at which its hidden states are to tell a token; other passes tell nothing."""
    targets = {}
    for number, places in told.items():
        targets[number] = torch.full(shown.ids.shape, IGNORE)
        targets[number][:, places] = tokens(2, len(places))
    nothing = torch.full(shown.ids.shape, IGNORE)
    return dataclasses.replace(shown, trace=lambda number, passes: targets.get(number, nothing))


def must_not(number: int, passes: int) -> Tensor:
    raise AssertionError(f"pass {number} of {passes} was asked for a trace")


def some_traced() -> Batch:
    """A window without a trace, one that is told something behind passes 1 and 3, one behind 2 and 4."""
    plain = some_batch()
    one, two, three = plain.context
    context = [one, traced(two, {1: [0, 2, 3], 3: [1]}), traced(three, {2: [0, 1, 2, 3], 4: [0, 3]})]
    return Batch(context=context, questions=plain.questions)


def traces_of(model: NapForCausalLM, batch: Batch, passes: int, state: FastWeights, forget: bool = False) -> Tensor:
    """The mean over all that is told of the cross-entropy, pass by pass, with the state carried on by hand."""
    losses = []
    for shown in batch.context:
        walk = passes_over(model, shown.ids, state, shown.mask)
        for number in range(1, passes + 1):
            hidden, slept = next(walk)
            labels = torch.full(shown.ids.shape, IGNORE) if shown.trace is None else shown.trace(number, passes)
            logits = model.lm_head(model.norm(hidden)).float().log_softmax(-1)
            told = [-logits[r, p, labels[r, p]] for r, p in (labels != IGNORE).nonzero().tolist()]
            if told:
                losses.append(torch.stack(told).mean())
        state = FastWeights() if forget else slept.state
    return torch.stack(losses).mean()


@pytest.mark.parametrize(
    ("rule", "passes", "rounds", "eviction"),
    [
        ("delta", 1, 1, "window"),
        ("hebbian", 2, 1, "window"),
        ("delta", 4, 1, "window"),
        ("hebbian", 3, 2, "window"),
        ("delta", 3, 1, "state"),
    ],
)
def test_a_trace_adds_the_losses_of_the_passes(rule: str, passes: int, rounds: int, eviction: str) -> None:
    model, batch = precise(rule=rule), some_traced()
    opening = some_state(model, 2)
    how: dict[str, Any] = {"passes": passes, "rounds": rounds, "state": opening, "eviction": eviction}
    plain = read_batch(model, batch, **how)
    wanted = traces_of(model, batch, passes, opening, forget=eviction == "state")
    for weight in (0.5, 2.0):
        outcome = read_batch(model, batch, trace=weight, **how)
        assert_close(outcome.loss - plain.loss, weight * wanted, 1e-5)
        for name in ("correct", "depth", "row"):
            assert torch.equal(getattr(outcome, name), getattr(plain, name))
        assert outcome.hits() == plain.hits()
    weights = list(model.parameters())
    gradients = (torch.autograd.grad(loss, weights) for loss in (outcome.loss, plain.loss + 2 * wanted))
    for a, b in zip(*gradients, strict=True):
        assert_close(a, b, 1e-5)
    assert float(wanted.detach()) > 1


@pytest.mark.parametrize(("passes", "rounds"), [(1, 1), (4, 1), (2, 2)])
def test_a_trace_leaves_the_state_as_it_is(passes: int, rounds: int) -> None:
    """And all that is read from it, to the bit."""
    model, batch = precise(), some_traced()
    opening = some_state(model, 2)
    told: list[Tensor] = []
    for forget in (False, True):
        plain, other = (
            [hidden for _, hidden in _walk(model, batch, passes, rounds, opening, forget=forget, traces=traces)]
            for traces in (None, told)
        )
        assert len(plain) == len(other) == 6
        assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))
    told.clear()
    shown = batch.context[1]
    with_trace = _traced(model, shown, opening, passes, told)
    without = sleep(model, shown.ids, opening, passes=passes, mask=shown.mask)
    assert torch.equal(with_trace.hidden, without.hidden)
    assert list(with_trace.state) == list(without.state)
    assert all(torch.equal(with_trace.state[name], without.state[name]) for name in without.state)
    assert len(told) == (2 if passes >= 3 else 1)


def test_no_weight_is_no_trace() -> None:
    model, plain = precise(), some_batch()
    asking = [dataclasses.replace(shown, trace=must_not) for shown in plain.context]
    found = []
    for batch, how in ((plain, {}), (Batch(context=asking, questions=plain.questions), {"trace": 0.0})):
        loss = read_batch(model, batch, passes=2, rounds=2, **how).loss
        found.append((loss, *torch.autograd.grad(loss, list(model.parameters()))))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_windows_without_a_trace_are_read_as_ever() -> None:
    model, batch = precise(), some_batch()
    plain, weighted = read_batch(model, batch, passes=2), read_batch(model, batch, passes=2, trace=0.5)
    assert torch.equal(plain.loss, weighted.loss)
    nothing = [traced(shown, {}) for shown in batch.context]  # a trace that tells nothing
    told = read_batch(model, Batch(context=nothing, questions=batch.questions), passes=2, trace=0.5)
    assert torch.equal(plain.loss, told.loss)
    alone = Batch(context=[], questions=batch.questions)
    assert torch.isfinite(read_batch(model, alone, passes=2, trace=0.5).loss)


@pytest.mark.parametrize(("passes", "rounds"), [(1, 1), (3, 1), (3, 3)])
def test_a_trace_is_asked_once_a_pass_of_the_first_visit(passes: int, rounds: int) -> None:
    model, batch, asked = precise(), some_batch(), []

    def asking(i: int, shown: Window) -> Window:
        def trace(number: int, of: int) -> Tensor:
            asked.append((i, number, of))
            return torch.zeros_like(shown.ids)

        return dataclasses.replace(shown, trace=trace)

    questions = [dataclasses.replace(shown, trace=must_not) for shown in batch.questions]
    context = [asking(i, shown) for i, shown in enumerate(batch.context)]
    read_batch(model, Batch(context=context, questions=questions), passes=passes, rounds=rounds, trace=0.5)
    assert asked == [(i, number, passes) for i in range(3) for number in range(1, passes + 1)]


def test_what_is_never_evicted_has_no_trace() -> None:
    model, batch = precise(), some_batch()
    plain = read_batch(model, batch, passes=1, eviction="never")
    asking = Batch(
        context=[dataclasses.replace(shown, trace=must_not) for shown in batch.context], questions=batch.questions
    )
    assert torch.equal(read_batch(model, asking, passes=1, eviction="never", trace=0.5).loss, plain.loss)


def test_a_trace_can_be_recomputed() -> None:
    model, batch = precise(), some_traced()
    found = []
    for recompute in (False, True):
        loss = read_batch(model, batch, passes=2, recompute=recompute, trace=0.5).loss
        found.append((loss, *torch.autograd.grad(loss, list(model.parameters()))))
    for a, b in zip(*found, strict=True):
        assert_close(a, b)


def test_the_trace_of_a_task() -> None:
    """Rule 110 with three passes of the tiny model, whose words are enough for it."""
    task = Rule110(bits=6, max_depth=5, strings=2)
    batch = task.batch(np.random.default_rng(0), 2, Difficulty(windows=2, depth=5, form="dense"))
    model = precise()
    assert task.vocab_size <= model.config.vocab_size
    plain, outcome = read_batch(model, batch, passes=3), read_batch(model, batch.to("cpu"), passes=3, trace=0.25)
    assert_close(outcome.loss - plain.loss, 0.25 * traces_of(model, batch, 3, FastWeights()), 1e-5)


@pytest.mark.parametrize("trace", [-0.5, float("nan"), float("inf")])
def test_traces_that_are_no_weight(trace: float) -> None:
    with pytest.raises(SettingsError, match=f"trace is {trace}; it is a weight, at least 0"):
        read_batch(precise(), some_batch(), passes=1, trace=trace)
