"""The rule of the sleep: on a backbone of plain numbers, then on nap against the transformers interface."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from agentsleep.errors import SettingsError
from agentsleep.models.nap import NapForCausalLM
from agentsleep.models.nap.modeling import state_of
from agentsleep.sleep import check_depth, deep_sleep, sleep
from agentsleep.state import FastWeights
from tests.tiny import RULES, assert_close, assert_same_state, in_cache, precise, some_state, tiny, tokens

FEEDBACKS = ("norm+embed", "hidden")


class Counting:
    """A backbone of plain numbers that notes what every pass was given.

    S counts what was read, the tail is the last input, and hidden states say which pass they come from.
    """

    def __init__(self) -> None:
        self.passes: list[tuple[list[float], float | None, float | None]] = []

    def embed(self, ids: Tensor) -> Tensor:
        return ids[..., None].double()

    def blocks(self, hidden: Tensor, state: FastWeights, mask: Tensor | None = None) -> tuple[Tensor, FastWeights]:
        recurrent, tail = state.of(0, "recurrent"), state.of(0, "conv")
        self.passes.append(
            (
                hidden.flatten().tolist(),
                None if recurrent is None else float(recurrent),
                None if tail is None else float(tail),
            )
        )
        before = torch.zeros(1, 1, 1, 1).double() if recurrent is None else recurrent
        after = {"layers.0.recurrent": before + hidden.sum(), "layers.0.conv": hidden[:, -1:]}
        return hidden + 100, FastWeights(after)

    def feed_back(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        return hidden + embedded


def number(state: FastWeights, kind: str) -> float:
    return float(state[f"layers.0.{kind}"])


def opening(recurrent: float, tail: float) -> FastWeights:
    shaped = torch.tensor(recurrent).double().view(1, 1, 1, 1), torch.tensor(tail).double().view(1, 1, 1)
    return FastWeights({"layers.0.recurrent": shaped[0], "layers.0.conv": shaped[1]})


def test_light_sleep_pass_by_pass() -> None:
    backbone = Counting()
    slept = sleep(backbone, torch.tensor([[1, 2]]), opening(1000.0, -5.0), passes=3)
    assert backbone.passes == [
        ([1.0, 2.0], 1000.0, -5.0),  # the window opens with S and the tail
        ([102.0, 104.0], 1003.0, None),  # 101 + 1, 102 + 2; S runs on, the tail is zero
        ([203.0, 206.0], 1209.0, None),  # the same embeddings are added, not the last input
    ]
    assert slept.hidden.flatten().tolist() == [101.0, 102.0]  # of pass 1
    assert number(slept.state, "recurrent") == 1209.0 + 409.0  # after the last pass
    assert number(slept.state, "conv") == 2.0  # of pass 1


def test_deep_sleep_visit_by_visit() -> None:
    backbone = Counting()
    visited: list[tuple[int, int]] = []
    windows = [(torch.tensor([[1]]), None), (torch.tensor([[2]]), None)]
    state = deep_sleep(
        backbone,
        windows,
        opening(1000.0, -5.0),
        passes=2,
        rounds=2,
        on_window=lambda done, of: visited.append((done, of)),
    )
    assert [given for given, _, _ in backbone.passes] == [[1.0], [102.0], [2.0], [104.0]] * 2  # oldest first
    assert all(tail is None for _, _, tail in backbone.passes)
    assert [s for _, s, _ in backbone.passes] == [1000.0, 1001.0, 1103.0, 1105.0, 1209.0, 1210.0, 1312.0, 1314.0]
    assert number(state, "recurrent") == 1314.0 + 104.0
    assert number(state, "conv") == -5.0  # no new token was read
    assert visited == [(1, 4), (2, 4), (3, 4), (4, 4)]


class Keeping(Counting):
    """Keeps keys as well: the last input, and what the keys of the state were that a pass was given."""

    def __init__(self) -> None:
        super().__init__()
        self.saw: list[float | None] = []

    def blocks(self, hidden: Tensor, state: FastWeights, mask: Tensor | None = None) -> tuple[Tensor, FastWeights]:
        keys = state.of(0, "keys")
        self.saw.append(None if keys is None else float(keys))
        after, left = super().blocks(hidden, state, mask)
        return after, left.merged({f"layers.0.{kind}": hidden[:, -1:] for kind in ("keys", "values", "seen")})


def test_every_pass_sees_the_keys_of_the_window_before() -> None:
    backbone = Keeping()
    first = sleep(backbone, torch.tensor([[1]]), FastWeights(), passes=2)
    second = sleep(backbone, torch.tensor([[5]]), first.state, passes=3)
    assert backbone.saw == [None, None, 102.0, 102.0, 102.0]  # those of the last pass, 101 + 1
    assert number(second.state, "keys") == 215.0  # into the third pass: 5, 105 + 5, 210 + 5
    assert number(second.state, "conv") == 5.0


def test_a_deep_sleep_leaves_the_keys_that_it_came_with() -> None:
    backbone = Keeping()
    came = sleep(backbone, torch.tensor([[1]]), FastWeights(), passes=1).state
    backbone.saw.clear()
    windows = [(torch.tensor([[2]]), None), (torch.tensor([[3]]), None)]
    left = deep_sleep(backbone, windows, came, passes=2, rounds=2)
    assert backbone.saw == [None] * 8
    assert number(left, "keys") == number(left, "seen") == number(came, "keys") == 1.0


def test_deep_sleep_over_nothing_changes_nothing() -> None:
    state = opening(3.0, 4.0)
    after = deep_sleep(Counting(), [], state, passes=4, rounds=3)
    assert after.diff(state) == dict.fromkeys(state, 0.0)
    assert len(deep_sleep(Counting(), [], FastWeights(), passes=1)) == 0


def test_a_deep_sleep_without_tails_leaves_none() -> None:
    state = deep_sleep(Counting(), [(torch.tensor([[1]]), None)], FastWeights(), passes=2)
    assert list(state) == ["layers.0.recurrent"]


@pytest.mark.parametrize("bad", [0, -1, True, False, 1.5, 2.0, "2", None, float("nan")])
def test_depths_that_are_none(bad: object) -> None:
    window = torch.tensor([[1]])
    for backbone, call in (
        (b := Counting(), lambda: sleep(b, window, FastWeights(), passes=bad)),  # type: ignore[arg-type]
        (b, lambda: deep_sleep(b, [(window, None)], FastWeights(), passes=bad)),  # type: ignore[arg-type]
        (b, lambda: deep_sleep(b, [(window, None)], FastWeights(), passes=1, rounds=bad)),  # type: ignore[arg-type]
    ):
        with pytest.raises(SettingsError, match=r"(passes|rounds) is .* at least 1"):
            call()
        assert backbone.passes == []  # nothing ran
    with pytest.raises(SettingsError, match="rounds is"):
        check_depth(1, bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", RULES)
def test_one_pass_is_the_ordinary_pass_to_the_bit(rule: str) -> None:
    model = tiny(rule=rule)
    ids, state = tokens(2, 9), some_state(model, 2)
    with torch.no_grad():
        slept = sleep(model, ids, state, passes=1)
        hidden, after = model.blocks(model.embed(ids), state)
        assert torch.equal(slept.hidden, hidden)
        assert slept.state.diff(after) == dict.fromkeys(after, 0.0)
        cache = in_cache(model, state)
        assert torch.equal(model.readout(slept.hidden), model(ids, past_key_values=cache).logits)
        assert slept.state.diff(state_of(cache, model.config)) == dict.fromkeys(after, 0.0)


@pytest.mark.parametrize("restart", [True, False], ids=["positions from 0", "positions run on"])
@pytest.mark.parametrize("rule", RULES)
def test_eviction_oracle(rule: str, restart: bool) -> None:
    """Two windows with an eviction between them = one forward whose mask hides the first window from the second."""
    model = precise(rule=rule)
    first, second = tokens(2, 7), tokens(2, 5)
    with torch.no_grad():
        slept = sleep(model, first, FastWeights(), passes=1)
        again = sleep(model, second, slept.state, passes=1)
        mask = torch.ones(12, 12, dtype=torch.bool).tril()
        mask[7:, :7] = False
        cache = in_cache(model, FastWeights())
        positions = torch.cat((torch.arange(7), torch.arange(5))) if restart else torch.arange(12)
        whole = model(
            torch.cat((first, second), 1),
            attention_mask=mask.expand(2, 1, 12, 12),
            position_ids=positions.expand(2, 12),
            past_key_values=cache,
        )
        assert_close(model.readout(slept.hidden), whole.logits[:, :7])
        assert_close(model.readout(again.hidden), whole.logits[:, 7:])
        assert_same_state(again.state, state_of(cache, model.config))
        unevicted = model(torch.cat((first, second), 1)).logits
        assert float((unevicted[:, 7:] - whole.logits[:, 7:]).abs().max()) > 1e-2  # the eviction shows
        forgotten = sleep(model, second, FastWeights(), passes=1)
        assert float((forgotten.hidden - again.hidden).abs().max()) > 1e-2  # and so does the state


def passes_by_hand(
    model: NapForCausalLM, ids: Tensor, state: FastWeights, passes: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """The rule, through the transformers interface alone: a fresh cache a pass, hidden states caught at the norm."""
    caught: list[Tensor] = []
    hook = model.norm.register_forward_pre_hook(lambda module, args: caught.append(args[0]))
    embedded = model.embeddings(ids)
    cache = in_cache(model, state)
    model(inputs_embeds=embedded, past_key_values=cache)
    first = caught[-1]
    kept = {name: t.clone() for name, t in state_of(cache, model.config).items()}
    for _ in range(passes - 1):
        before = {name: t.clone() for name, t in state_of(cache, model.config).items() if name.endswith("recurrent")}
        cache = in_cache(model, FastWeights(before))  # no keys, and zeros where the convolution tail was
        hidden = caught[-1]
        fed = hidden if model.config.sleep_feedback == "hidden" else model.norm(hidden) + embedded
        model(inputs_embeds=fed, past_key_values=cache)
    kept.update({n: t for n, t in state_of(cache, model.config).items() if n.endswith("recurrent")})
    hook.remove()
    return first, kept


@pytest.mark.parametrize("passes", [1, 2, 4])
@pytest.mark.parametrize("feedback", FEEDBACKS)
@pytest.mark.parametrize("rule", RULES)
def test_passes_equal_those_made_by_hand(rule: str, feedback: str, passes: int) -> None:
    model = precise(rule=rule, sleep_feedback=feedback)
    state = some_state(model, 2)
    for length in (1, 2, 9):  # shorter than the kernel too
        ids = tokens(2, length)
        with torch.no_grad():
            slept = sleep(model, ids, state, passes=passes)
            hidden, wanted = passes_by_hand(model, ids, state, passes)
        assert_close(slept.hidden, hidden)
        assert_same_state(slept.state, FastWeights(wanted))


@pytest.mark.parametrize("rule", RULES)
def test_tails_cross_from_pass_one_and_s_from_the_last(rule: str) -> None:
    model = precise(rule=rule)
    ids, state = tokens(1, 6), some_state(model)
    with torch.no_grad():
        once, deep = sleep(model, ids, state, passes=1), sleep(model, ids, state, passes=3)
    assert torch.equal(once.hidden, deep.hidden)
    assert deep.state.only("conv").diff(once.state.only("conv")) == dict.fromkeys(once.state.only("conv"), 0.0)
    assert all(by > 1e-2 for by in deep.state.only("recurrent").diff(once.state.only("recurrent")).values())


def test_the_feedback_modes_differ() -> None:
    ids = tokens(1, 6)
    with torch.no_grad():
        states = [sleep(precise(sleep_feedback=feedback), ids, FastWeights(), passes=2).state for feedback in FEEDBACKS]
    assert all(by > 1e-2 for by in states[0].only("recurrent").diff(states[1].only("recurrent")).values())


ROWS = {  # which places of a window of 8 are real, by row
    "right": ["11111111", "11110000", "10000000", "00000000"],
    "left": ["11111111", "00001111", "00000001", "00000000"],
    "middle": ["11111111", "10110100", "01000010", "00000000"],
}


def bits(side: str) -> Tensor:
    return torch.tensor([[c == "1" for c in row] for row in ROWS[side]])


@pytest.mark.parametrize("passes", [1, 2, 4])
@pytest.mark.parametrize("side", sorted(ROWS))
@pytest.mark.parametrize("rule", RULES)
def test_padded_rows_equal_unpadded_ones(rule: str, side: str, passes: int) -> None:
    model = precise(rule=rule)
    mask, ids, state = bits(side), tokens(4, 8), some_state(model, 4)
    with torch.no_grad():
        batch = sleep(model, ids, state, passes=passes, mask=mask)
        assert torch.isfinite(batch.hidden).all()
        for i in range(4):
            row = torch.tensor([i])
            if not mask[i].any():  # nothing was read: the row's state is what it was
                assert batch.state.rows(row).diff(state.rows(row)) == dict.fromkeys(state, 0.0)
                continue
            alone = sleep(model, ids[i, mask[i]][None], state.rows(row), passes=passes)
            assert_close(batch.hidden[i, mask[i]], alone.hidden[0])
            assert_close(model.readout(batch.hidden)[i, mask[i]], model.readout(alone.hidden)[0])
            assert_same_state(batch.state.rows(row), alone.state)
        unmasked = sleep(model, ids, state, passes=passes)
        assert max(unmasked.state.diff(batch.state).values()) > 1e-2  # the mask does something


@pytest.mark.parametrize("rule", RULES)
def test_padded_rows_of_a_deep_sleep_equal_unpadded_ones(rule: str) -> None:
    model = precise(rule=rule)
    masks = [bits("right"), bits("left").flip(0), None]
    windows = [(tokens(4, 8), mask) for mask in masks]
    state = some_state(model, 4)
    with torch.no_grad():
        batch = deep_sleep(model, windows, state, passes=2, rounds=2)
        for i in range(4):
            row = torch.tensor([i])
            real = [ids[i][None] if mask is None else ids[i, mask[i]][None] for ids, mask in windows]
            alone = deep_sleep(model, [(ids, None) for ids in real if ids.numel()], state.rows(row), passes=2, rounds=2)
            assert_same_state(batch.rows(row), alone)


@pytest.mark.parametrize("rule", RULES)
def test_deep_sleep_is_light_sleeps_in_a_row(rule: str) -> None:
    model = precise(rule=rule)
    windows, state = [tokens(1, n) for n in (5, 3)], some_state(model)
    with torch.no_grad():
        deep = deep_sleep(model, [(ids, None) for ids in windows], state, passes=2, rounds=2)
        running = state
        for ids in (*windows, *windows):
            _, wanted = passes_by_hand(model, ids, FastWeights(running.only("recurrent")), 2)
            running = FastWeights(wanted)
    assert_same_state(deep, running.only("recurrent").merged(state.only("conv")))


def test_what_goes_in_stays_as_it_was() -> None:
    model = tiny()
    ids, state = tokens(1, 5), some_state(model)
    before, ids_before = state.clone(), ids.clone()
    sleep(model, ids, state, passes=3)
    deep_sleep(model, [(ids, None)], state, passes=2, rounds=2)
    assert state.diff(before) == dict.fromkeys(state, 0.0)
    assert torch.equal(ids, ids_before)
