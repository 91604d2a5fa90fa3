"""Doors before the blocks of a model."""

from __future__ import annotations

import copy
from threading import Barrier, Thread

import pytest
import torch
from torch import Tensor, nn

from agentsleep.backends.stack import BlockStack, Plan
from agentsleep.conformance import make_model
from agentsleep.errors import UnsupportedModel

IDS = torch.randint(0, 512, (1, 9), generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("family", ["qwen3_5", "falcon_h1", "nemotron_h", "zamba", "mamba2"])
def test_ranges_of_blocks_in_turn_are_the_whole(family: str) -> None:
    base = make_model(family).base_model
    with torch.no_grad():
        untouched = base(input_ids=IDS, use_cache=False).last_hidden_state
        stack = BlockStack(base)
        assert torch.equal(base(input_ids=IDS, use_cache=False).last_hidden_state, untouched)
        if family != "zamba":  # its shared blocks look back at the first hidden states
            hidden: Tensor | None = None
            for run in (range(1), range(1, 3), range(3, stack.length)):
                with stack.going(Plan(run, enter=hidden)) as plan:
                    base(input_ids=IDS, use_cache=False)
                hidden = plan.left
            with stack.going(Plan(range(stack.length))) as whole:
                base(input_ids=IDS, use_cache=False)
            assert hidden is not None
            assert whole.left is not None
            assert torch.allclose(hidden, whole.left, atol=1e-5)
        with stack.going(Plan(range(0))) as plan:
            base(input_ids=IDS, use_cache=False)
        assert plan.left is not None
        assert not torch.allclose(plan.left, untouched, atol=1e-2)


def test_each_thread_follows_its_own_plan() -> None:
    base = make_model("qwen3_5").base_model
    stack = BlockStack(base)
    plans = [range(0), range(1), range(2), range(4)]
    expected, found = [], {}
    for run in plans:
        with torch.no_grad(), stack.going(Plan(run)) as plan:
            base(input_ids=IDS, use_cache=False)
        expected.append(plan.left)
    together = Barrier(len(plans) + 1)

    def follow(number: int) -> None:
        wrong = 0
        with torch.no_grad():
            for _ in range(5):
                together.wait(60)
                with stack.going(Plan(plans[number])) as plan:
                    base(input_ids=IDS, use_cache=False)
                left, right = plan.left, expected[number]
                assert left is not None
                assert right is not None
                wrong += not torch.equal(left, right)
        found[number] = wrong

    threads = [Thread(target=follow, args=(number,)) for number in range(len(plans))]
    for thread in threads:
        thread.start()
    with torch.no_grad():
        untouched = base(input_ids=IDS, use_cache=False).last_hidden_state
        for _ in range(5):  # this thread has no plan
            together.wait(60)
            assert torch.equal(base(input_ids=IDS, use_cache=False).last_hidden_state, untouched)
    for thread in threads:
        thread.join(60)
    assert found == dict.fromkeys(range(len(plans)), 0)


def test_a_second_stack_shares_the_doors() -> None:
    base = make_model("qwen3_5").base_model
    BlockStack(base)
    kinds = [type(layer) for layer in base.layers]
    stack = BlockStack(base)
    assert [type(layer) for layer in base.layers] == kinds
    with torch.no_grad(), stack.going(Plan(range(0), enter=torch.ones(1, 9, 32))) as plan:
        base(input_ids=IDS, use_cache=False)
    assert plan.left is not None
    assert torch.equal(plan.left, torch.ones(1, 9, 32))


def test_a_copy_runs_its_own_weights() -> None:
    base = make_model("qwen3_5").base_model
    BlockStack(base)
    twin = copy.deepcopy(base)
    with torch.no_grad():
        before = base(input_ids=IDS, use_cache=False).last_hidden_state
        for layer in twin.layers:
            for weight in layer.parameters():
                weight.mul_(0.5)
        assert not torch.allclose(twin(input_ids=IDS, use_cache=False).last_hidden_state, before, atol=1e-2)
        assert torch.equal(base(input_ids=IDS, use_cache=False).last_hidden_state, before)


@pytest.mark.parametrize("layers", [None, nn.Linear(2, 2), nn.ModuleList()])
def test_a_model_without_blocks(layers: nn.Module | None) -> None:
    model = nn.Module()
    model.layers = layers
    with pytest.raises(UnsupportedModel, match="Module has no list of blocks called 'layers'"):
        BlockStack(model)


def test_a_forward_that_goes_past_its_blocks() -> None:
    class Past(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(2, 2)])

        def forward(self, input_ids: Tensor, use_cache: bool) -> Tensor:
            return input_ids

    with pytest.raises(UnsupportedModel, match="did not go through its blocks"):
        BlockStack(Past())
