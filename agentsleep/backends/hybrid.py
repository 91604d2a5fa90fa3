"""Any hybrid of transformers as a backbone that sleeps."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import PreTrainedModel

from agentsleep.backends.cache import POSITION, kept_for_backward, keys_held, open_cache, state_of
from agentsleep.backends.settings import SleepSettings
from agentsleep.backends.stack import BlockStack, Plan
from agentsleep.errors import InputError
from agentsleep.state import FastWeights


class HybridBackbone:
    """The :class:`agentsleep.sleep.Backbone` of a stock hybrid; where ``settings.loop`` leaves blocks out, also its
    :class:`agentsleep.sleep.MiddleLoop`.

    Everything runs through the model's own forward, so scalings, masks and positions are the model's own.
    Differentiable in the weights and in the state.

    Args:
        model: a causal language model of transformers.
        settings: how it sleeps.

    Raises:
        UnsupportedModel: its blocks cannot be found.
        SettingsError: ``loop`` names blocks that it does not have.
    """

    def __init__(self, model: PreTrainedModel, settings: SleepSettings) -> None:
        self.model, self.settings = model, settings
        self.config = model.config.get_text_config(decoder=True)
        self.stack = BlockStack(model.base_model)
        self._whole = range(self.stack.length)
        self.loop = settings.check_loop(self.stack.length)
        self._tails: FastWeights | None = None
        self._embedded = WeakTensorKeyDictionary()  # inside of a loop: hidden states, and the embeddings they came from

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids ``[B, T]`` to what the first block is entered with, ``[B, T, D]``."""
        with self.stack.going(Plan(range(0))) as plan:
            self.model.base_model(input_ids=ids, use_cache=False)
        assert plan.left is not None
        return plan.left

    def blocks(self, hidden: Tensor, state: FastWeights, mask: Tensor | None = None) -> tuple[Tensor, FastWeights]:
        """One pass through the looped blocks, see :meth:`agentsleep.sleep.Backbone.blocks`.

        Raises:
            InputError: padding; it would decay the state and shift its convolutions. Batch equal lengths.
        """
        return self._run(self.loop, hidden, state, mask)

    def prelude(self, hidden: Tensor, state: FastWeights, mask: Tensor | None = None) -> tuple[Tensor, FastWeights]:
        """The blocks before the looped ones."""
        return self._run(range(self.loop.start), hidden, state, mask)

    def coda(self, hidden: Tensor, state: FastWeights, mask: Tensor | None = None) -> tuple[Tensor, FastWeights]:
        """The blocks behind the looped ones."""
        return self._run(range(self.loop.stop, self.stack.length), hidden, state, mask)

    def feed_back(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        """The next pass's input, as ``settings.feedback`` says; all ``[B, T, D]``."""
        if self.settings.feedback == "tokens":
            return embedded
        if self.settings.feedback == "hidden":
            return hidden
        normed: Tensor = self._top(self.model.base_model, hidden).last_hidden_state
        fed = normed if self.settings.feedback == "norm" else normed + embedded
        if embedded in self._embedded:
            self._embedded[fed] = self._embedded[embedded]
        return fed

    def readout(self, hidden: Tensor) -> Tensor:
        """Logits ``[..., vocab]`` from hidden states ``[..., D]`` before the final norm."""
        logits: Tensor = self._top(self.model, hidden.reshape(1, -1, hidden.shape[-1])).logits
        return logits.reshape(*hidden.shape[:-1], -1)

    def _top(self, model: Any, hidden: Tensor) -> Any:
        """What the model makes of hidden states behind its blocks."""
        with self.stack.going(Plan(range(0), enter=hidden)):
            return model(inputs_embeds=hidden, use_cache=False)

    def _run(self, run: range, hidden: Tensor, state: FastWeights, mask: Tensor | None) -> tuple[Tensor, FastWeights]:
        if mask is not None and not bool(mask.all()):
            raise InputError(
                f"a window has {int((~mask.bool()).sum())} padded tokens; padding would decay the fast weights: "
                "batch windows of equal length"
            )
        if not run:
            return hidden, FastWeights()
        batch, length, _ = hidden.shape
        if length == 1:
            state = self._with_tails(state, batch)
        cache = open_cache(self.config, state)
        start = int(state[POSITION]) if POSITION in state else 0
        step = kept_for_backward(cache) if length == 1 else nullcontext()
        # The blocks of some models (Zamba) read the embeddings too, not only what the block before left.
        embedded = self._embedded.get(hidden, hidden)
        with self.stack.going(Plan(run, enter=hidden)) as plan, step:
            arguments = reading(cache, batch, length, start, hidden.device)
            self.model.base_model(inputs_embeds=embedded, use_cache=True, **arguments)
        assert plan.left is not None
        if self.loop != self._whole:
            self._embedded[plan.left] = embedded
        left = state_of(cache, self.settings.tail)
        after = {name: tensor for name, tensor in left.items() if int(name.split(".")[1]) in run}
        if self.settings.tail:
            after[POSITION] = torch.tensor(start + length)
        return plan.left, FastWeights(after)

    def _with_tails(self, state: FastWeights, batch: int) -> FastWeights:
        """The state with zeros for the convolution tails that it lacks, since the step of one token asks for a tail
        wherever there is a state."""
        lacking = [name for name in state.only("recurrent") if f"{name.removesuffix('recurrent')}conv" not in state]
        if not lacking:
            return state
        if self._tails is None:  # how large they are, the model alone knows
            token = torch.zeros(1, 1, dtype=torch.long, device=self.model.device)
            cache = open_cache(self.config, FastWeights())
            with torch.no_grad():
                self.model.base_model(input_ids=token, use_cache=True, **reading(cache, 1, 1, 0, token.device))
            self._tails = state_of(cache).only("conv")
        names = (f"{name.removesuffix('recurrent')}conv" for name in lacking)
        zeros = {
            name: torch.zeros_like(self._tails[name]).expand(batch, -1, -1) for name in names if name in self._tails
        }
        return state.merged(zeros)


def reading(cache: Any, batch: int, length: int, position: int, device: torch.device) -> dict[str, Any]:
    """The arguments with which a forward reads ``length`` further tokens from a cache.

    Positions are always said: some models count from 0 in a continuation. Where keys of an earlier window are seen, the
    mask must be said as well, since the length of the cache is then not the position.
    """
    positions = torch.arange(position, position + length, device=device)
    arguments = {"past_key_values": cache, "position_ids": positions.expand(batch, -1)}
    held = keys_held(cache)
    if held not in (None, position):
        arguments["attention_mask"] = torch.ones(batch, held + length, dtype=torch.long, device=device)
    return arguments
