"""As many passes as it takes: on a backbone whose answers are scripted, then on nap against sleeps of every depth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from agentsleep.auto import sleep_until
from agentsleep.errors import InputError, SettingsError
from agentsleep.models.nap import NapForCausalLM
from agentsleep.sleep import sleep
from agentsleep.state import FastWeights
from tests.tiny import RULES, some_state, tiny, tokens


class Scripted:
    """S counts passes, and probe k, a token, is answered by ``scripts[k]``: after pass i by its i-th number.

    The window is made of zeros, so that whoever asks at a wrong place finds no script.
    """

    def __init__(self, *scripts: str) -> None:
        self.scripts = dict(enumerate(scripts, 1))
        self.runs = 0

    def embed(self, ids: Tensor) -> Tensor:
        return ids[..., None].double()

    def blocks(self, hidden: Tensor, state: FastWeights, mask: Tensor | None = None) -> tuple[Tensor, FastWeights]:
        self.runs += 1
        read = state.of(0, "recurrent")
        read = torch.zeros(len(hidden), 1, 1, 1).double() if read is None else read
        after = {"layers.0.recurrent": read + 1, "layers.0.conv": hidden.mT[..., -1:]}
        return hidden * 1000 + read[:, 0], FastWeights(after)

    def feed_back(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        return embedded

    def readout(self, hidden: Tensor) -> Tensor:
        said = []
        for value in hidden.flatten().tolist():
            probe, passes = divmod(int(value), 1000)
            said.append(int(self.scripts[probe][passes - 1]))
        return torch.nn.functional.one_hot(torch.tensor(said), 10).double()


def asked(*probes: int) -> list[tuple[Tensor, None]]:
    return [(torch.tensor([[0, 0, probe]]), None) for probe in probes]


WINDOW = torch.zeros(1, 4, dtype=torch.long)


@pytest.mark.parametrize(
    ("scripts", "patience", "most", "expected"),
    [
        (["55555555"], 1, 8, 2),
        (["12333333"], 1, 8, 4),
        (["12121212"], 1, 5, 5),  # never at rest
        (["12333333"], 1, 3, 3),  # at rest too late
        (["12333333"], 1, 4, 4),
        (["55555555"], 1, 1, 1),
        (["22222222", "12333333"], 1, 8, 4),  # all of them
        (["11222222", "12233333"], 1, 8, 5),  # each rests at some pass before, but not both at one
        (["11222222"], 2, 8, 5),
        (["11223333"], 3, 8, 8),
        (["55555555"], 3, 8, 4),
    ],
)
def test_it_stops_when_the_answers_rest(scripts: list[str], patience: int, most: int, expected: int) -> None:
    backbone = Scripted(*scripts)
    probes = asked(*range(1, len(scripts) + 1))
    slept, passes, read = sleep_until(
        backbone, WINDOW, FastWeights(), probes=probes, max_passes=most, patience=patience
    )
    assert passes == expected
    assert float(slept.state["layers.0.recurrent"]) == expected
    rounds = expected - (expected == most)  # behind the last pass allowed nothing is asked
    assert read == rounds * 3 * len(scripts)
    assert backbone.runs == expected + rounds * len(scripts)


def test_a_batch_rests_when_all_its_rows_do() -> None:
    ids = torch.zeros(2, 4, dtype=torch.long)
    left, right = torch.tensor([[0, 0, 1], [3, 0, 0]]), torch.tensor([[2], [2]])
    mask = torch.tensor([[False, True, True], [True, False, False]])
    backbone = Scripted("12222222", "11111111", "12344444")
    found = sleep_until(backbone, ids, FastWeights(), probes=[(left, mask), (right, None)], max_passes=8)
    assert found.passes == 5  # script 3, of the second row, is the last to rest
    assert found.probe_tokens == 5 * (3 + 2)  # what is padding was not read


@pytest.mark.parametrize(
    ("name", "settings"),
    [(name, {name: value}) for name in ("max_passes", "patience") for value in (0, -1, True, 2.0, "auto", None)],
)
def test_counts_are_whole_numbers_of_at_least_one(name: str, settings: dict[str, Any]) -> None:
    backbone = Scripted("1" * 8)
    with pytest.raises(SettingsError, match=rf"{name} is {settings[name]!r}; it must be a whole number of at least 1"):
        sleep_until(backbone, WINDOW, FastWeights(), **{"probes": asked(1), "max_passes": 4} | settings)
    assert backbone.runs == 0


@pytest.mark.parametrize(
    ("probe", "said"),
    [
        ((torch.ones(2, 3).long(), None), r"a probe is \(2, 3\); it must be \[1, T\]"),
        ((torch.ones(3).long(), None), r"a probe is \(3,\)"),
        ((torch.ones(1, 3).long(), torch.ones(1, 2).bool()), r"a probe is \(1, 3\) with a mask \(1, 2\)"),
        ((torch.ones(1, 3).long(), torch.zeros(1, 3).bool()), r"a row without any token"),
        ((torch.ones(1, 0).long(), None), r"a row without any token"),
    ],
)
def test_probes_that_are_none(probe: tuple[Tensor, Tensor | None], said: str) -> None:
    backbone = Scripted("1" * 8)
    with pytest.raises(InputError, match=said):
        sleep_until(backbone, WINDOW, FastWeights(), probes=[*asked(1), probe], max_passes=4)
    with pytest.raises(SettingsError, match=r"there are no probes.*; give questions, or a number of passes"):
        sleep_until(backbone, WINDOW, FastWeights(), probes=[], max_passes=4)
    assert backbone.runs == 0


def answers_after(model: NapForCausalLM, state: FastWeights, probes: list[tuple[Tensor, None]]) -> list[list[int]]:
    """What a fresh window answers to each probe, read through a sleep of one pass."""
    return [model.readout(sleep(model, ids, state, passes=1).hidden)[:, -1].argmax(-1).tolist() for ids, _ in probes]


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_it_is_the_sleep_of_that_depth_to_the_bit(rule: str, graph: bool) -> None:
    model = tiny(rule=rule)
    found = []
    for length in (1, 2, 5, 9):
        ids, state = tokens(2, length), some_state(model, 2)
        mask = None if length < 9 else torch.arange(9).expand(2, 9) < torch.tensor([[9], [6]])
        probes = [(tokens(2, 3), None)]
        with torch.set_grad_enabled(graph):
            slept, passes, read = sleep_until(model, ids, state, probes=probes, max_passes=6, mask=mask)
            depths = [sleep(model, ids, state, passes=n, mask=mask) for n in range(1, 7)]
            answers = [answers_after(model, depth.state, probes) for depth in depths]
        resting = [n for n in range(2, 7) if answers[n - 1] == answers[n - 2]]
        assert passes == min(resting, default=6)
        assert read == 6 * min(passes, 5)
        wanted = depths[passes - 1]
        assert torch.equal(slept.hidden, wanted.hidden)
        assert list(slept.state) == list(wanted.state)
        assert all(torch.equal(slept.state[name], wanted.state[name]) for name in wanted.state)
        assert not any(t.requires_grad for t in (slept.hidden, *slept.state.values()))
        found.append(passes)
    assert len(set(found)) > 1  # or the comparison would show little


def test_what_goes_in_stays_as_it_was() -> None:
    model = tiny()
    ids, probe, state = tokens(1, 5), tokens(1, 3), some_state(model)
    before = ids.clone(), probe.clone(), state.clone()
    sleep_until(model, ids, state, probes=[(probe, None)], max_passes=3)
    assert torch.equal(ids, before[0])
    assert torch.equal(probe, before[1])
    assert state.diff(before[2]) == dict.fromkeys(state, 0.0)
