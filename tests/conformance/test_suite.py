"""Every family passes the suite; each check fails when what it is about is broken."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agentsleep.backends import Backend, LiveWindow, hybrid, live, probe
from agentsleep.backends.cache import open_cache
from agentsleep.backends.hybrid import HybridBackbone
from agentsleep.chat import Chat
from agentsleep.conformance import SUPPORTED
from agentsleep.conformance.outcome import Found, Outcome, Skipped, outcome
from agentsleep.conformance.subject import Subject, apart
from agentsleep.conformance.suite import CHECKS, check_model, document, proves, report_on, report_on_families
from agentsleep.errors import CheckpointMissing, InputError, UnsupportedModel
from agentsleep.memory import sleeping
from agentsleep.memory.decoding import Sampling, Stop
from agentsleep.policy import SleepPolicy
from agentsleep.sleep import sleep
from agentsleep.state import FastWeights

Subjects = Callable[[str], Subject]
NO_ATTENTION = ("mamba2", "falcon_mamba")
SHORT = ("abilities", "wake", "padding", "batch", "sliding", "middle loop")


def run(subject: Subject, name: str) -> Outcome:
    return outcome(name, CHECKS[name], subject)


def assert_conforms(outcomes: list[Outcome], family: str) -> None:
    assert [one for one in outcomes if one.status == "fail"] == []
    skipped = [one.name for one in outcomes if one.status == "skip"]
    asked = [one.name for one in outcomes]
    expected = ["sliding", "sliding session"] if family in NO_ATTENTION else []
    assert skipped == [name for name in expected if name in asked]
    exact = [one for one in outcomes if one.figure is not None and one.name not in ("bfloat16", "many sleeps")]
    assert all(one.figure is not None and one.figure <= 1e-4 for one in exact)


@pytest.mark.parametrize("family", ["qwen3_5", "falcon_h1", "jamba"])
def test_the_whole_suite(subject_of: Subjects, family: str) -> None:
    told: list[float] = []
    outcomes = check_model(subject_of(family), progress=told.append)
    assert [one.name for one in outcomes] == list(CHECKS)
    assert_conforms(outcomes, family)
    assert told == pytest.approx([(i + 1) / len(CHECKS) for i in range(len(CHECKS))])


@pytest.mark.parametrize("family", SUPPORTED)
def test_the_short_list_on_every_family(subject_of: Subjects, family: str) -> None:
    assert_conforms(check_model(subject_of(family), SHORT), family)


@pytest.mark.slow
@pytest.mark.parametrize("family", SUPPORTED)
def test_the_whole_suite_on_every_family(family: str) -> None:
    (report,) = report_on_families([family])
    assert report["ok"], report


def test_a_model_of_our_own() -> None:
    outcomes = check_model(Subject.load(None), ["wake", "overflow", "batch", "streaming", "threads", "passes"])
    assert [(one.name, one.status) for one in outcomes] == [
        ("wake", "ok"),
        ("overflow", "ok"),
        ("streaming", "ok"),
        ("batch", "skip"),
        ("passes", "ok"),
        ("threads", "ok"),
    ]
    assert "nap model" in outcomes[3].text


# What is broken is found


def no_recurrent_state(patch: pytest.MonkeyPatch) -> None:
    """A cache that keeps convolution tails alone."""
    for module in (hybrid, live, probe):
        patch.setattr(module, "open_cache", lambda config, state: open_cache(config, state.only("conv", "keys")))


def wrong_positions(patch: pytest.MonkeyPatch) -> None:
    """Every read counts its positions from 0."""
    real = live.reading
    patch.setattr(live, "reading", lambda cache, batch, length, start, device: real(cache, batch, length, 0, device))


def shared_forks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LiveWindow, "fork", lambda self: self)


def forgetful_log(patch: pytest.MonkeyPatch) -> None:
    """A sleep in the middle of a turn rounds the state that it stores."""
    real = Backend.consolidate

    def consolidate(self: Backend, *args: Any) -> FastWeights:
        state = real(self, *args)
        return FastWeights({name: t * (1 + 1e-6 * torch.rand(1)) for name, t in state.items()})

    patch.setattr(Backend, "consolidate", consolidate)


def pins_dropped(patch: pytest.MonkeyPatch) -> None:
    """The head of every window lacks its last token."""
    real = Chat.head
    calls = iter(range(10**6))
    patch.setattr(Chat, "head", lambda self, *args: real(self, *args)[: None if next(calls) == 0 else -1])


def nothing_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SleepPolicy, "kept", lambda self, lengths, **room: 0)


def deaf_to_stops(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Stop, "push", lambda self, token: False)


def unseeded(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sampling, "generator", lambda self: torch.Generator().manual_seed(int(torch.randint(10**6, ()))))


def rows_mixed(patch: pytest.MonkeyPatch) -> None:
    real = HybridBackbone.blocks

    def blocks(self: HybridBackbone, hidden: torch.Tensor, *args: Any) -> Any:
        out, state = real(self, hidden, *args)
        return out + 1e-2 * out.mean(0, keepdim=True) * (len(out) > 1), state

    patch.setattr(HybridBackbone, "blocks", blocks)


def padding_read(patch: pytest.MonkeyPatch) -> None:
    real = HybridBackbone._run
    patch.setattr(HybridBackbone, "_run", lambda self, run, hidden, state, mask: real(self, run, hidden, state, None))


def tail_forgotten(patch: pytest.MonkeyPatch) -> None:
    for module in (hybrid, live):
        patch.setattr(module, "open_cache", lambda config, state: open_cache(config, state.only("recurrent", "conv")))


def loop_ignored(patch: pytest.MonkeyPatch) -> None:
    """Blocks outside of the loop are looped as well."""
    real = HybridBackbone._run

    def everything(self: HybridBackbone, run: range, *args: Any) -> Any:
        return real(self, self._whole if run == self.loop else range(0), *args)

    patch.setattr(HybridBackbone, "_run", everything)


def one_pass_too_many(patch: pytest.MonkeyPatch) -> None:
    real = Backend.consolidate
    patch.setattr(Backend, "consolidate", lambda self, ids, state, n: real(self, ids, state, n + 1))


def running_away(patch: pytest.MonkeyPatch) -> None:
    real = Backend.consolidate

    def consolidate(self: Backend, *args: Any) -> FastWeights:
        return FastWeights({name: 2.0 * t for name, t in real(self, *args).items()})

    patch.setattr(Backend, "consolidate", consolidate)


def not_for_threads(patch: pytest.MonkeyPatch) -> None:
    real = Backend.consolidate

    def consolidate(self: Backend, *args: Any) -> FastWeights:
        off = 1.0 if threading.current_thread() is threading.main_thread() else 1.01
        return FastWeights({name: off * t for name, t in real(self, *args).items()})

    patch.setattr(Backend, "consolidate", consolidate)


def infinite_in_half(patch: pytest.MonkeyPatch) -> None:
    real = Backend.consolidate

    def consolidate(self: Backend, *args: Any) -> FastWeights:
        off = float("inf") if self.model.dtype == torch.bfloat16 else 1.0
        return FastWeights({name: off * t for name, t in real(self, *args).items()})

    patch.setattr(Backend, "consolidate", consolidate)


def lost_window(patch: pytest.MonkeyPatch) -> None:
    """A session forgets, when it is closed, the keys that its state kept."""
    real = sleeping.from_bytes
    patch.setattr(sleeping, "from_bytes", lambda tensors: real(tensors).only("recurrent", "conv"))


@pytest.mark.parametrize(
    ("breaking", "name", "said"),
    [
        (no_recurrent_state, "abilities", "eviction: reading on without the keys is off by"),
        (wrong_positions, "wake", "logits behind pieces"),
        (shared_forks, "wake", "read by its origin too"),
        (forgetful_log, "overflow", "not bit-equal"),
        (pins_dropped, "pins", "does not begin with the system prompt"),
        (nothing_kept, "pins", "does not go on with the messages"),
        (deaf_to_stops, "streaming", "goes on behind|does not count as finished"),
        (unseeded, "streaming", "the same seed gives"),
        (rows_mixed, "batch", "row 0 of a batch"),
        (padding_read, "padding", "without an error"),
        (tail_forgotten, "sliding", "is off by"),
        (lost_window, "sliding session", "does not speak as it did when it was stored"),
        (loop_ignored, "middle loop", "outside of the loop"),
        (one_pass_too_many, "passes", "one pass, against ordinary reading"),
        (running_away, "many sleeps", "has no bound|NaN|Inf"),
        (not_for_threads, "threads", "beside another"),
        (infinite_in_half, "bfloat16", "NaN, Inf"),
    ],
)
def test_what_is_broken_is_found(
    subject_of: Subjects, monkeypatch: pytest.MonkeyPatch, breaking: Any, name: str, said: str
) -> None:
    subject = subject_of("qwen3_5")
    breaking(monkeypatch)
    found = run(subject, name)
    assert found.status == "fail", found
    assert any(part in found.text for part in said.split("|")), found


def test_a_state_that_is_lost_is_found_where_there_is_no_attention(
    subject_of: Subjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_recurrent_state(monkeypatch)
    found = run(subject_of("mamba2"), "wake")
    assert found.status == "fail"
    assert "a window that opens with a state" in found.text


def test_the_embeddings_reach_the_blocks_behind_the_first(subject_of: Subjects) -> None:
    """Zamba's shared block reads the embeddings beside its input, also where blocks before it are left out."""
    backend, ids = subject_of("zamba2").sleeping(loop=(1, 2)), [5, 6, 7, 8, 9]
    for feedback in ("hidden", "norm"):
        looped = subject_of("zamba2").sleeping(loop=(1, 2), feedback=feedback).consolidate(ids, FastWeights(), 3)
        assert looped.is_finite()
    with torch.no_grad():
        hidden = sleep(backend.backbone, backend.row(ids), FastWeights(), passes=2).hidden
        own = backend.model(input_ids=backend.row(ids), use_cache=False).logits
    assert apart(backend.backbone.readout(hidden), own) < 1e-5


# Around the checks


def test_an_exception_is_a_finding_and_no_traceback(subject_of: Subjects) -> None:
    def broken(subject: Subject) -> Found:
        raise RuntimeError("no kernel")

    def none(subject: Subject) -> Found:
        raise Skipped("no keys")

    subject = subject_of("qwen3_5")
    assert outcome("x", broken, subject) == Outcome("x", "fail", None, "RuntimeError: no kernel")
    assert outcome("x", none, subject) == Outcome("x", "skip", None, "no keys")
    assert outcome("x", lambda s: Found(float("nan"), "a"), subject) == Outcome("x", "ok", None, "a")


def test_names_of_checks() -> None:
    for name in CHECKS:
        assert len(proves(name)) > 60
    with pytest.raises(InputError, match=r"there is no check 'sleeping'; there are: abilities, wake"):
        report_on(None, ["wake", "sleeping"])
    with pytest.raises(InputError, match="family 'gpt' is not known"):
        report_on_families(["gpt"], ["wake"])


def test_what_cannot_be_loaded(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissing):
        report_on(tmp_path / "none", ["wake"])
    with pytest.raises(UnsupportedModel, match="no fast weights"):
        report_on(folder_of("llama"), ["wake"])


def test_the_document(folder_of: Callable[[str], Path]) -> None:
    report = report_on(folder_of("bamba"), ["padding"], name="bamba")
    assert (report["model"], report["class"], report["dtype"]) == ("bamba", "BambaForCausalLM", "float32")
    assert report["ok"] is True
    whole = document([report, {**report, "ok": False}], ["padding"])
    assert whole["ok"] is False
    assert whole["checks"] == [{"name": "padding", "proves": proves("padding")}]


def test_the_numbers_decide_what_is_allowed(folder_of: Callable[[str], Path]) -> None:
    assert Subject.load(folder_of("bamba")).tolerance == 1e-4
    coarse = Subject.load(folder_of("bamba"), dtype="bfloat16")
    assert coarse.tolerance == 0.15
    assert run(coarse, "wake").status == "ok"
