"""The open window: read in pieces, slept on, forked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from agentsleep.backends import Backend, LiveWindow, load_backend
from agentsleep.sleep import sleep
from agentsleep.state import FastWeights
from tests.memory.helpers import assert_near, make_nap, same


@pytest.fixture(scope="module")
def backend(nap: Path) -> Backend:
    return load_backend(nap)


@pytest.fixture(scope="module", params=["delta", "hebbian"])
def any_rule(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backend:
    return load_backend(make_nap(tmp_path_factory.mktemp(request.param), rule=request.param))


def ids(count: int) -> list[int]:
    return torch.randint(0, 386, (count,)).tolist()


@pytest.mark.parametrize("cuts", [[20], [1, 19], [7, 1, 1, 11], [1] * 20])
def test_reading_in_pieces_is_reading_at_once(any_rule: Backend, cuts: list[int]) -> None:
    whole = ids(20)
    opened = any_rule.consolidate(ids(13), FastWeights(), 2)
    window, done = LiveWindow(any_rule, opened), 0
    for cut in cuts:
        window.read(whole[done : done + cut])
        done += cut
    at_once = LiveWindow(any_rule, opened)
    at_once.read(whole)
    assert window.ids == at_once.ids == whole
    assert len(window) == 20
    assert window.free == 28
    assert_near(window.logits, at_once.logits)
    assert same(window.sleep(3), at_once.sleep(3))  # what is stored does not depend on how it was read


def test_a_window_opens_with_a_state_and_with_no_keys(any_rule: Backend) -> None:
    first, second = ids(30), ids(10)
    opened = any_rule.consolidate(first, FastWeights(), 1)
    window = LiveWindow(any_rule, opened)
    window.read(second)
    with torch.inference_mode():
        hidden, _ = any_rule.model.blocks(any_rule.model.embed(torch.tensor([second])), opened)
        assert_near(window.logits, any_rule.model.readout(hidden)[0, -1])
    blank = LiveWindow(any_rule, FastWeights())
    blank.read(second)
    assert blank.logits is not None
    assert not torch.allclose(blank.logits, window.logits, atol=1e-3)


def test_a_sleep_leaves_the_window_as_it_is(backend: Backend) -> None:
    window = LiveWindow(backend, FastWeights())
    window.read(ids(12))
    before = window.logits
    one, other = window.sleep(2), window.sleep(2)
    assert same(one, other)
    assert window.logits is before
    assert len(window) == 12
    with torch.inference_mode():
        assert same(one, sleep(backend.model, torch.tensor([window.ids]), FastWeights(), passes=2).state)


def test_a_fork_and_its_origin_go_their_own_ways(backend: Backend) -> None:
    opened = backend.consolidate(ids(9), FastWeights(), 2)
    window = LiveWindow(backend, opened)
    window.read(ids(8))
    logits, read = window.logits, [*window.ids]
    fork = window.fork()
    more, other = ids(5), ids(5)
    fork.read(more)
    assert window.ids == read
    assert window.logits is logits
    window.read(other)
    for one, tail in ((window, other), (fork, more)):
        expected = LiveWindow(backend, opened)
        expected.read(read + tail)
        assert_near(one.logits, expected.logits)
    assert fork.opened is window.opened


def test_nothing_is_read_for_nothing(backend: Backend) -> None:
    window = LiveWindow(backend, FastWeights())
    window.read([])
    assert window.logits is None
    assert len(window) == 0
    with pytest.raises(AssertionError, match=r"sleeps before its window overflows"):
        window.read(ids(49))


def test_a_state_takes_part_in_no_gradient(backend: Backend) -> None:
    state = backend.consolidate(ids(5), FastWeights(), 2)
    assert not any(tensor.requires_grad for tensor in state.values())
    assert state.is_finite()
