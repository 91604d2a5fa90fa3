"""Checks of a back end's numbers: reading, forking, batches, passes, eviction."""

from __future__ import annotations

import torch
from torch import Tensor

from agentsleep.backends.cache import has_attention, open_cache, state_of
from agentsleep.backends.capability import examine
from agentsleep.backends.hybrid import HybridBackbone
from agentsleep.backends.probe import Probe
from agentsleep.backends.settings import FEEDBACKS
from agentsleep.conformance.outcome import Failed, Found, Skipped, expect, near
from agentsleep.conformance.subject import Subject, apart, read, states_apart
from agentsleep.errors import AgentsleepError, InputError, UnsupportedModel
from agentsleep.sleep import sleep
from agentsleep.state import FastWeights

_OURS = "a nap model: this is for models of transformers, its own tests cover it"


def _stock(subject: Subject) -> HybridBackbone:
    if subject.stock is None:
        raise Skipped(_OURS)
    return subject.stock


def abilities(subject: Subject) -> Found:
    """The model's state can be trusted: it is seen in the logits, chunks and single tokens continue from it as one
    forward would, it survives storage, a window without keys equals a masked forward, and a second pass moves it."""
    stock = _stock(subject)
    report = examine(subject.backend.model, stock)
    probe = Probe(subject.backend.model, stock)
    with torch.no_grad():
        scale = max(1.0, float(probe.logits(input_ids=probe.ids, use_cache=False).abs().max()))
    errors = {v.ability: v.figure / scale for v in report.verdicts if v.figure is not None}
    exact = {name: errors[name] for name in ("continuation", "decoding", "round trip", "eviction") if name in errors}
    if report.failed:
        raise Failed("; ".join(f"{v.ability}: {v.text}" for v in report.failed), max(exact.values(), default=None))
    notes = [f"{v.ability}: {v.text}" for v in report.verdicts if v.status == "note"]
    said = [f"{name} {error:.1g}" for name, error in exact.items()]
    said += [f"without the state a logit moves by {errors['fast weights']:.2g} of the largest"]
    return Found(max(exact.values()), "; ".join([", ".join(said), *notes]))


def wake(subject: Subject) -> Found:
    """A live window that reads in pieces of odd sizes, or token by token, ends with the logits of one read, and of the
    model's own forward; without attention so does a window that opens with the state of the one before. A fork goes
    its own way and leaves its origin alone."""
    backend = subject.sleeping()
    ids, other = subject.ids(27), subject.ids(5, seed=1)
    opened = backend.consolidate(subject.ids(19, seed=2), FastWeights(), 2)
    error = 0.0
    with torch.inference_mode():
        own = backend.model(input_ids=backend.row(ids), use_cache=False).logits[0, -1]
    for state, cuts in ((FastWeights(), (7, 1, 1, 13)), (opened, (1, 11, 3)), (opened, (1,) * 26)):
        whole, pieces = read(backend, state, ids), read(backend, state, ids, *cuts)
        said = f"logits behind pieces of {cuts[:4]}"
        error = max(error, near(apart(pieces.logits, whole.logits), subject.tolerance, said))
        if not len(state):
            error = max(error, near(apart(whole.logits, own), subject.tolerance, "a live window"))
    if subject.stock is not None and not has_attention(open_cache(subject.stock.config, FastWeights())):
        with torch.inference_mode():  # no keys are dropped, so a window and its sleep of one pass change nothing
            on = backend.model(input_ids=backend.row(ids + other), use_cache=False).logits[0, -1]
        slept = read(backend, backend.consolidate(ids, FastWeights(), 1), other)
        error = max(error, near(apart(slept.logits, on), subject.tolerance, "a window that opens with a state"))
    origin = read(backend, opened, ids)
    fork, before = origin.fork(), origin.logits
    fork.read(other)
    expect(origin.ids == ids and origin.logits is before, "what a fork reads is read by its origin too")
    origin.read(other)
    near(apart(fork.logits, read(backend, opened, ids + other).logits), subject.tolerance, "a fork that reads on")
    near(apart(origin.logits, fork.logits), subject.tolerance, "the origin of a fork that reads on")
    return Found(error, "logits of pieces against one read; forks apart")


def batch(subject: Subject) -> Found:
    """Three windows of equal length in one batch come out as each one alone, hidden states and fast weights."""
    backbone = _stock(subject)
    rows = torch.tensor([subject.ids(17, seed) for seed in range(3)], device=subject.backend.device)
    more = torch.tensor([subject.ids(9, seed) for seed in range(3, 6)], device=subject.backend.device)
    error = 0.0
    with torch.inference_mode():
        state = sleep(backbone, rows, FastWeights(), passes=1).state
        after = sleep(backbone, more, state, passes=1)
        logits = backbone.readout(after.hidden)
        for row in range(3):
            index = torch.tensor([row], device=subject.backend.device)
            shared = [name for name in state if name.endswith((".recurrent", ".conv", ".keys", ".values"))]
            mine = state.merged(FastWeights({name: state[name] for name in shared}).rows(index))
            alone = sleep(backbone, more[row : row + 1], mine, passes=1)
            first = sleep(backbone, rows[row : row + 1], FastWeights(), passes=1).state
            said = f"row {row} of a batch"
            error = max(error, near(apart(logits[row], backbone.readout(alone.hidden)[0]), subject.tolerance, said))
            for one, whole in ((first, state), (alone.state, after.state)):
                part = whole.only("recurrent").rows(index)
                error = max(error, near(states_apart(one, part), subject.tolerance, f"the state of {said}"))
    return Found(error, "three rows in a batch against each alone")


def padding(subject: Subject) -> Found:
    """Padding, which would decay the state and shift its convolutions, is refused with an InputError that says so."""
    backbone = _stock(subject)
    rows = torch.tensor([subject.ids(6)], device=subject.backend.device)
    mask = torch.tensor([[True] * 4 + [False] * 2], device=subject.backend.device)
    try:
        with torch.inference_mode():
            sleep(backbone, rows, FastWeights(), passes=1, mask=mask)
    except InputError as error:
        expect("padded" in str(error), f"the refusal does not speak of padding: {error}")
        return Found(None, "refused with an InputError")
    raise Failed("padded tokens are read into the state without an error")


def passes(subject: Subject) -> Found:
    """Sleeps of 1, 2 and 4 passes are finite and all different; one pass leaves what ordinary reading leaves; every way
    of feeding back runs."""
    backend, ids = subject.sleeping(), subject.ids(21)
    once, twice, often = (backend.consolidate(ids, FastWeights(), n) for n in (1, 2, 4))
    for n, state in ((1, once), (2, twice), (4, often)):
        expect(state.is_finite() and state.norm() > 0, f"{n} passes leave NaN, Inf or an empty state")
    expect(states_apart(twice, once) > 0 and states_apart(often, twice) > 0, "further passes do not move the state")
    left = state_of(read(backend, FastWeights(), ids)._cache)
    error = near(states_apart(once, left), subject.tolerance, "one pass, against ordinary reading,")
    if subject.stock is not None:
        for feedback in FEEDBACKS:
            fed = subject.sleeping(feedback=feedback).consolidate(ids, FastWeights(), 3)
            expect(fed.is_finite(), f"feedback {feedback!r} leaves NaN or Inf; choose another one")
    return Found(error, "N = 1 against ordinary reading; N = 2, 4 and every feedback finite")


def middle_loop(subject: Subject) -> Found:
    """Looping the middle blocks alone is finite, is another sleep than looping all, and leaves the state of the blocks
    outside of the loop as pass 1 left it."""
    blocks = _stock(subject).stack.length
    if blocks < 3:
        raise Skipped(f"a model of {blocks} blocks has no middle")
    ids, loop = subject.ids(21), (1, blocks - 2)
    full = subject.sleeping(loop=None).consolidate(ids, FastWeights(), 3)
    once = subject.sleeping(loop=None).consolidate(ids, FastWeights(), 1)
    middle = subject.sleeping(loop=loop).consolidate(ids, FastWeights(), 3)
    expect(middle.is_finite(), f"looping blocks {loop} leaves NaN or Inf")
    inside = {name for name in once.only("recurrent") if loop[0] <= int(name.split(".")[1]) <= loop[1]}
    outside = FastWeights({name: once[name] for name in once.only("recurrent") if name not in inside})
    if not inside:
        raise Skipped(f"blocks {loop[0]} to {loop[1]} hold no fast weights")
    error = 0.0
    if outside:
        error = near(states_apart(middle, outside), subject.tolerance, "the state of the blocks outside of the loop")
    expect(states_apart(middle, full) > 0, "looping the middle is the same as looping all blocks")
    expect(any(not torch.equal(middle[name], once[name]) for name in inside), "looping the middle leaves its state")
    return Found(error, f"blocks {loop[0]} to {loop[1]} looped; those outside against pass 1")


def half_precision(subject: Subject) -> Found:
    """In bfloat16 the model loads, sleeps, and decodes greedily, with nothing that is not finite. It need not say the
    same as in fp32: the figure is how far its logits are from those."""
    if subject.stock is None:
        raise Skipped("nap models always run in float32")
    try:
        coarse = Subject.load(subject.place, device=subject.backend.device.type, dtype="bfloat16")
    except UnsupportedModel as refusal:
        raise Failed(f"cannot be loaded in bfloat16: {refusal}") from refusal
    report = coarse.backend.report
    if report is not None and report.failed:
        raise Failed("; ".join(f"{verdict.ability}: {verdict.text}" for verdict in report.failed))
    backend, ids = coarse.sleeping(), subject.ids(19)
    state = backend.consolidate(ids, FastWeights(), 2)
    expect(state.is_finite() and state.norm() > 0, "a sleep in bfloat16 leaves NaN, Inf or an empty state")
    window = read(backend, state, subject.ids(7, seed=1))
    for _ in range(8):
        assert window.logits is not None
        expect(bool(torch.isfinite(window.logits).all()), "decoding in bfloat16 gives NaN or Inf")
        window.read([int(window.logits.argmax())])
    exact = read(subject.sleeping(), FastWeights(), ids)
    error = apart(read(backend, FastWeights(), ids).logits, exact.logits)
    expect(error < 1.0, f"in bfloat16 logits are off by {error:.2g} of the largest", error)
    return Found(error, "logits in bfloat16 against the model as it is; sleeps and decodes finite")


def tail_of(subject: Subject) -> int:
    """The tail with which sliding eviction is checked.

    Raises:
        Skipped: keys of this model cannot slide.
    """
    stock = _stock(subject)
    if not has_attention(open_cache(stock.config, FastWeights())):
        raise Skipped("there is no attention, so no keys that could stay")
    backend = subject.sleeping(eviction="sliding", tail=4)
    try:
        backend.consolidate(subject.ids(9), FastWeights(), 1)
    except UnsupportedModel as error:
        raise Skipped(f"{error}") from error
    return 4


def sliding(subject: Subject) -> Found:
    """A window that still sees the last keys of the one before equals one forward over both whose mask hides the rest;
    so does reading on in it token by token."""
    tail, first, second = tail_of(subject), subject.ids(15), subject.ids(11, seed=1)
    backend = subject.sleeping(eviction="sliding", tail=tail)
    state = backend.consolidate(first, FastWeights(), 1)
    window = read(backend, state, second)
    error = near(
        apart(read(backend, state, second, *[1] * 10).logits, window.logits), subject.tolerance, "single tokens"
    )
    row = torch.arange(len(first) + len(second), device=backend.device)
    seen = row[:, None] >= row
    seen[len(first) :, : len(first) - tail] = False
    hidden = torch.zeros(seen.shape, dtype=backend.model.dtype, device=backend.device)
    mask = hidden.masked_fill(~seen, torch.finfo(backend.model.dtype).min)[None, None]
    masks: dict[str, Tensor | None] = {"full_attention": mask, "linear_attention": None}
    try:
        with torch.inference_mode():
            whole = backend.model(input_ids=backend.row(first + second), use_cache=False, attention_mask=masks)
    except AgentsleepError:
        raise
    except (TypeError, ValueError, AttributeError, KeyError, RuntimeError) as refusal:
        return Found(error, f"token by token only: the model takes no mask of its own ({type(refusal).__name__})")
    error = max(error, near(apart(window.logits, whole.logits[0, -1]), subject.tolerance, "a window with a tail"))
    deeper = backend.consolidate(second, state, 2)
    expect(deeper.is_finite(), "a sleep with a tail leaves NaN or Inf")
    return Found(error, f"a tail of {tail} keys against a masked forward, and token by token")
