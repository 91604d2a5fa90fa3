"""The forwards of the capability probe: what must be equal is compared, and set against what the past does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from agentsleep.backends.cache import has_attention, open_cache, state_of
from agentsleep.backends.hybrid import HybridBackbone, reading
from agentsleep.backends.report import Verdict
from agentsleep.errors import UnsupportedModel
from agentsleep.sleep import sleep
from agentsleep.state import FastWeights

_READ, _MORE = 67, 29  # tokens of the past and of the continuation: odd, and longer than the chunk of a delta rule
_STEPS = 9  # tokens read one by one
# Largest error against the largest logit, and against what the state does to the logits.
_TOLERANCE = {torch.float32: (1e-4, 1e-2), torch.float64: (1e-4, 1e-2)}
_COARSE = (0.15, 0.25)  # bf16 and fp16
_ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-5}  # of the largest logit; less than this is not seen
_COARSE_ROUNDING = 2e-2
_NO_KEYS = (
    "there is no attention, so there are no keys to drop: a sleep of N = 1 changes nothing here; passes 2 to N write "
    "the window into the state as they do elsewhere"
)


class Probe:
    """The forwards that a report rests on, with random tokens; it draws no gradient."""

    def __init__(self, model: PreTrainedModel, backbone: HybridBackbone) -> None:
        self.model, self.backbone = model, backbone
        self.weight = next(model.parameters())
        whole = min(_READ + _MORE, getattr(backbone.config, "max_position_embeddings", None) or _READ + _MORE)
        self.past = whole * _READ // (_READ + _MORE)
        draw = torch.Generator().manual_seed(0)
        self.ids = torch.randint(0, backbone.config.vocab_size, (1, whole), generator=draw).to(self.weight.device)
        self.a, self.b = self.ids[:, : self.past], self.ids[:, self.past :]

    def read(self, ids: Tensor, cache: Any, position: int) -> Tensor:
        """Logits ``[1, T, vocab]`` of tokens read from a cache."""
        arguments = reading(cache, 1, ids.shape[1], position, ids.device)
        return self.logits(input_ids=ids, use_cache=True, **arguments)

    def logits(self, **arguments: Any) -> Tensor:
        """Of one forward of the whole model, ``[1, T, vocab]`` in fp32."""
        logits: Tensor = self.model(**arguments).logits
        return logits.float()

    def evicted(self, state: FastWeights) -> Tensor:
        """Logits of the continuation, read from a state alone."""
        return self.read(self.b, open_cache(self.backbone.config, state), 0)

    def verdicts(self) -> Iterator[Verdict]:
        """All of them, in order."""
        live = open_cache(self.backbone.config, FastWeights())
        try:
            self.read(self.a, live, 0)
        except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
            raise UnsupportedModel(
                f"{type(self.model).__name__} does not read with transformers' DynamicCache ({error}); its state could "
                "be neither archived nor opened again: give a hybrid that keeps it there"
            ) from error
        state = state_of(live)
        self._check_fast_weights(state)
        self.whole = self.logits(input_ids=self.ids, use_cache=False)
        self.scale = max(1.0, float(self.whole.abs().max()))
        remembered = self.evicted(state)
        self.effect = _apart(remembered, self.evicted(state.only("conv")))
        yield self._visible()
        continued = self.read(self.b, live, self.past)
        yield self._judged("continuation", _apart(continued, self.whole[:, self.past :]), "reading on from a state")
        yield self._judged("decoding", self._decoded(), "reading token by token")
        yield self._round_trip(state, remembered)
        yield self._eviction(remembered) if has_attention(live) else Verdict("eviction", "note", None, _NO_KEYS)
        yield self._passes()

    def _check_fast_weights(self, state: FastWeights) -> None:
        if len(state.only("recurrent")):
            return
        kind = "keeps convolution states only" if len(state.only("conv")) else "is a pure attention model"
        raise UnsupportedModel(
            f"no fast weights: {type(self.model).__name__} {kind}, so a sleep has nothing to write into; give a hybrid "
            "with SSM or linear attention"
        )

    def _visible(self) -> Verdict:
        if self.effect < _ROUNDING.get(self.weight.dtype, _COARSE_ROUNDING) * self.scale:
            return Verdict(
                "fast weights",
                "note",
                self.effect,
                f"the state has no visible effect: without it no logit moves by more than {self.effect:.1g} (the "
                f"largest is {self.scale:.2g}), so an error in it could not be seen; train the model first",
            )
        return Verdict("fast weights", "ok", self.effect, f"without the state a logit moves by {self.effect:.2g}")

    def _judged(self, ability: str, error: float, what: str) -> Verdict:
        absolute, relative = _TOLERANCE.get(self.weight.dtype, _COARSE)
        unseen = _ROUNDING.get(self.weight.dtype, _COARSE_ROUNDING) * self.scale
        allowed = min(absolute * self.scale, max(relative * self.effect, unseen))
        against = f"{what} is off by {error:.2g} (allowed {allowed:.2g}; the state itself makes {self.effect:.2g})"
        if error <= allowed:  # never so for NaN
            return Verdict(ability, "ok", error, against)
        return Verdict(
            ability, "fail", error, f"{against}; use another model, or another version of transformers, and report it"
        )

    def _decoded(self) -> float:
        steps = min(_STEPS, self.b.shape[1])
        cache = open_cache(self.backbone.config, FastWeights())
        fresh = [self.read(self.ids[:, i : i + 1], cache, i) for i in range(steps)]
        cache = open_cache(self.backbone.config, FastWeights())
        self.read(self.a, cache, 0)
        later = [self.read(self.b[:, i : i + 1], cache, self.past + i) for i in range(steps)]
        return max(
            _apart(torch.cat(fresh, 1), self.whole[:, :steps]),
            _apart(torch.cat(later, 1), self.whole[:, self.past : self.past + steps]),
        )

    def _round_trip(self, state: FastWeights, remembered: Tensor) -> Verdict:
        stored = state.save()
        error = _apart(self.evicted(FastWeights.load(stored).to(self.weight.device)), remembered)
        self.read(self.b[:, :1], open_cache(self.backbone.config, state), 0)
        if state.save() != stored:
            return Verdict(
                "round trip",
                "fail",
                None,
                "reading from a state changes the state; use another version of transformers",
            )
        if error <= 1e-6 * self.scale:
            return Verdict("round trip", "ok", error, f"a stored state opens with logits that are off by {error:.2g}")
        return Verdict(
            "round trip",
            "fail",
            error,
            f"a stored state opens with logits that are off by {error:.2g}; use another version of transformers",
        )

    def _eviction(self, remembered: Tensor) -> Verdict:
        """Against one forward over everything whose mask hides the evicted keys; positions run on in it."""
        total = self.ids.shape[1]
        row = torch.arange(total, device=self.ids.device)
        seen = row[:, None] >= row
        seen[self.past :, : self.past] = False
        near = row[:, None] - row < (getattr(self.backbone.config, "sliding_window", None) or total)
        masks: dict[str, Tensor | None] = {}
        masks |= {"full_attention": self._mask(seen), "sliding_attention": self._mask(seen & near)}
        refused: Exception | None = None
        # By kind of layer, as hybrids take masks; or the mask alone, as a model does that had attention alone.
        for mask in ({**masks, "linear_attention": None}, masks["full_attention"]):
            try:
                oracle = self.logits(input_ids=self.ids, use_cache=False, attention_mask=mask)
            except (TypeError, ValueError, AttributeError, KeyError, RuntimeError) as error:
                refused = error
            else:
                apart = _apart(remembered, oracle[:, self.past :])
                return self._judged("eviction", apart, "reading on without the keys")
        return Verdict(
            "eviction",
            "note",
            None,
            f"not checked: this model takes no mask of its own ({type(refused).__name__}: {refused}); load it with "
            "attn_implementation='sdpa' to have it checked",
        )

    def _mask(self, seen: Tensor) -> Tensor:
        hidden = torch.zeros(seen.shape, dtype=self.weight.dtype, device=seen.device)
        return hidden.masked_fill(~seen, torch.finfo(self.weight.dtype).min)[None, None]

    def _passes(self) -> Verdict:
        """A second pass must move the state, and to where it moves from S and blank convolution tails."""
        once, twice = (sleep(self.backbone, self.a, FastWeights(), passes=n).state.only("recurrent") for n in (1, 2))
        if not twice.is_finite():
            boundless = "a second pass gives NaN or Inf; set sleep_feedback to 'norm' in the config"
            return Verdict("passes", "fail", None, boundless)
        norm = max(once.norm(), 1e-30)
        moved = _between(twice, once).norm() / norm
        if not moved > 0.0:
            still = "a second pass leaves the state as it was; loop blocks that hold fast weights"
            return Verdict("passes", "fail", moved, still)
        entered, _ = self.backbone.prelude(self.backbone.embed(self.a), FastWeights())
        hidden, state = self.backbone.blocks(entered, FastWeights())
        blank = {name: torch.zeros_like(t) if name.endswith(".conv") else t for name, t in state.items()}
        _, again = self.backbone.blocks(
            self.backbone.feed_back(hidden, entered),
            FastWeights({name: t for name, t in blank.items() if name.endswith((".conv", ".recurrent"))}),
        )
        error = _between(again.only("recurrent"), twice).norm() / norm
        if not error <= _TOLERANCE.get(self.weight.dtype, _COARSE)[1]:
            return Verdict(
                "passes",
                "fail",
                error,
                f"a second pass from blank convolution tails is off by {error:.2g} of the state's norm; use another "
                "model, or another version of transformers, and report it",
            )
        return Verdict("passes", "ok", moved, f"a second pass moves the state by {moved:.2g} of its norm")


def _between(one: FastWeights, other: FastWeights) -> FastWeights:
    return FastWeights({name: one[name].float() - other[name].float() for name in one})


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())
