"""Windows of different lengths, read by models that cannot be given padding."""

from __future__ import annotations

import pytest
import torch

from agentsleep.backends.settings import SleepSettings
from agentsleep.errors import InputError
from agentsleep.sleep import sleep
from agentsleep.state import FastWeights
from agentsleep.training.fresh import fresh_model, settings_of_family
from agentsleep.training.subjects import StockSubject
from tests.training.test_retrofit import HYBRID

LENGTHS = (5, 9, 3, 9)


def subject(**settings: object) -> StockSubject:
    torch.manual_seed(0)
    model = fresh_model(settings_of_family({**HYBRID, "vocab_size": 20})).eval()
    return StockSubject(model, SleepSettings(window=16, passes=2, feedback="norm+embed", **settings))


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, 20, (4, 9), generator=torch.Generator().manual_seed(0))
    return ids, torch.arange(9)[None] < torch.tensor(LENGTHS)[:, None]


@pytest.mark.parametrize("passes", [1, 2])
def test_each_row_sleeps_as_if_alone(passes: int) -> None:
    reader = subject()
    ids, mask = padded()
    with torch.no_grad():
        before = sleep(reader, ids[:, :4], FastWeights(), passes=2).state
        whole = sleep(reader, ids, before, passes=passes, mask=mask)
        for row, length in enumerate(LENGTHS):
            alone = sleep(reader, ids[row : row + 1, :length], before.rows(torch.tensor([row])), passes=passes)
            assert torch.allclose(whole.hidden[row, :length], alone.hidden[0], atol=1e-5)
            for name in alone.state:
                assert torch.allclose(whole.state[name][row], alone.state[name][0], atol=1e-5)


def test_padding_would_not_have_been_harmless() -> None:
    reader = subject()
    ids, mask = padded()
    with torch.no_grad():
        right, wrong = (sleep(reader, ids, FastWeights(), passes=1, mask=given).state for given in (mask, None))
    name = "layers.1.recurrent"
    assert float((right[name][0] - wrong[name][0]).abs().max()) > 1e-3
    assert torch.allclose(right[name][1], wrong[name][1], atol=1e-5)  # a full row


def test_what_cannot_be_read() -> None:
    ids, mask = padded()
    for where in (mask.flip(1), torch.zeros_like(mask)):
        with pytest.raises(InputError, match="pad at the end alone"):
            sleep(subject(), ids, FastWeights(), passes=1, mask=where)
    with pytest.raises(InputError, match="evict hard"):
        sleep(subject(eviction="sliding", tail=3), ids, FastWeights(), passes=1, mask=mask)


def test_the_middle_blocks_alone_are_looped() -> None:
    reader = subject(loop=(1, 1))
    ids, mask = padded()
    with torch.no_grad():
        whole = sleep(reader, ids, FastWeights(), passes=2, mask=mask)
        alone = sleep(reader, ids[:1, :5], FastWeights(), passes=2)
    assert torch.allclose(whole.state["layers.1.recurrent"][0], alone.state["layers.1.recurrent"][0], atol=1e-5)
