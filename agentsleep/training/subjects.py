"""What is trained: our own model, or one of transformers that is to learn to sleep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from agentsleep.backends.hybrid import HybridBackbone
from agentsleep.backends.settings import SleepSettings
from agentsleep.errors import InputError, SettingsError
from agentsleep.models.graft import GraftForCausalLM
from agentsleep.sleep import MiddleLoop
from agentsleep.state import FastWeights
from agentsleep.training.episode import LanguageModel

Part = Callable[[Tensor, FastWeights], tuple[Tensor, FastWeights]]


class StockSubject:
    """A model of transformers as :func:`agentsleep.training.episode.read_batch` reads it. Rows of different lengths are
    read in groups of one length, since a stock model would take padding into its state."""

    def __init__(self, model: PreTrainedModel, settings: SleepSettings) -> None:
        self.model, self.backbone = model, HybridBackbone(model, settings)

    @property
    def settings(self) -> SleepSettings:
        """How it sleeps."""
        return self.backbone.settings

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        found: torch.device = self.model.device
        return found

    @property
    def training(self) -> bool:
        """Whether it is in training mode."""
        return self.model.training

    def train(self, mode: bool = True) -> None:
        """Puts it into training mode, or out of it."""
        self.model.train(mode)

    def embed(self, ids: Tensor) -> Tensor:
        """As the backbone's."""
        return self.backbone.embed(ids)

    def blocks(self, hidden: Tensor, state: FastWeights, mask: Tensor | None = None) -> tuple[Tensor, FastWeights]:
        """As the backbone's; ``mask`` may be False at the end of a row.

        Raises:
            InputError: padding elsewhere, an empty row, or padding where keys of earlier windows are kept.
        """
        return self._by_length(self.backbone.blocks, hidden, state, mask)

    def prelude(self, hidden: Tensor, state: FastWeights, mask: Tensor | None = None) -> tuple[Tensor, FastWeights]:
        """Likewise."""
        return self._by_length(self.backbone.prelude, hidden, state, mask)

    def coda(self, hidden: Tensor, state: FastWeights, mask: Tensor | None = None) -> tuple[Tensor, FastWeights]:
        """Likewise."""
        return self._by_length(self.backbone.coda, hidden, state, mask)

    def feed_back(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        """As the backbone's."""
        return self.backbone.feed_back(hidden, embedded)

    def readout(self, hidden: Tensor) -> Tensor:
        """As the backbone's."""
        return self.backbone.readout(hidden)

    def _by_length(
        self, part: Part, hidden: Tensor, state: FastWeights, mask: Tensor | None
    ) -> tuple[Tensor, FastWeights]:
        if mask is None or bool(mask.all()):
            return part(hidden, state)
        lengths = mask.sum(1)
        if not bool((mask[:, :-1] >= mask[:, 1:]).all()) or not int(lengths.min()) or self.settings.tail:
            raise InputError(
                "a window is padded before its end, has a row without tokens, or is padded where keys of the window "
                "before are kept; a model of transformers would take that into its state: pad at the end alone, and "
                "evict hard"
            )
        rows, outs, states = [], [], []
        for length in lengths.unique().tolist():
            here = (lengths == length).nonzero()[:, 0]
            out, left = part(hidden[here, :length], state.rows(here))
            rows.append(here)
            outs.append(F.pad(out, (0, 0, 0, hidden.shape[1] - length)))
            states.append(left)
        back = torch.cat(rows).argsort()
        merged = {name: torch.cat([left[name] for left in states])[back] for name in states[0]}
        return torch.cat(outs)[back], FastWeights(merged)


class Truncated:
    """A model whose state carries no gradient over every ``every``-th border between the windows of a batch (truncated
    backpropagation through time). Made anew for each batch."""

    def __init__(self, model: LanguageModel, every: int) -> None:
        self.model, self.every = model, every
        self._windows, self._cut, self._first = 0, False, True

    def embed(self, ids: Tensor) -> Tensor:
        """As the model's; here a window begins."""
        self._cut = self._windows > 0 and self._windows % self.every == 0
        self._windows += 1
        self._first = True
        return self.model.embed(ids)

    def blocks(self, hidden: Tensor, state: FastWeights, mask: Tensor | None = None) -> tuple[Tensor, FastWeights]:
        """As the model's."""
        return self.model.blocks(hidden, self._opened(state), mask)

    def prelude(self, hidden: Tensor, state: FastWeights, mask: Tensor | None = None) -> tuple[Tensor, FastWeights]:
        """As the model's, which may have none."""
        if not isinstance(self.model, MiddleLoop):
            return hidden, FastWeights()
        return self.model.prelude(hidden, self._opened(state), mask)

    def coda(self, hidden: Tensor, state: FastWeights, mask: Tensor | None = None) -> tuple[Tensor, FastWeights]:
        """As the model's, which may have none."""
        if not isinstance(self.model, MiddleLoop):
            return hidden, FastWeights()
        return self.model.coda(hidden, self._opened(state), mask)

    def feed_back(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        """As the model's; from here on S is of this window, and keeps its gradient."""
        self._first = False
        return self.model.feed_back(hidden, embedded)

    def readout(self, hidden: Tensor) -> Tensor:
        """As the model's."""
        return self.model.readout(hidden)

    def _opened(self, state: FastWeights) -> FastWeights:
        if not self._cut:
            return state
        return state.detach() if self._first else state.merged(state.only("keys", "values").detach())


@dataclass
class Subject:
    """What a trainer trains.

    model: the weights, of transformers.  reader: the same model as :func:`read_batch` takes it.
    remarks: what the user should know of how it was made, a line each.
    grafted: whether its fast-weight layers are new.
    """

    model: Any  # a PreTrainedModel; which one, the settings say
    reader: Any  # a LanguageModel that has a device and a mode, as evaluate_task asks
    remarks: tuple[str, ...] = ()
    grafted: bool = False

    def fast_parameters(self) -> list[nn.Parameter]:
        """The parameters of the layers that hold fast weights.

        Raises:
            SettingsError: layers of a kind that is not known.
        """
        if isinstance(self.model, GraftForCausalLM):
            return [parameter for _, parameter in self.model.new_parameters()]
        layers = self.model.base_model.layers
        mixers = [module for module in layers.modules() if "A_log" in module._parameters]  # the decay of every SSM
        if not mixers:
            raise SettingsError(
                f"which layers of a {self.model.config.model_type} hold fast weights is not known, so they cannot be "
                "trained first; set fast_first to 0"
            )
        return list(dict.fromkeys(parameter for mixer in mixers for parameter in mixer.parameters()))

    def evict_hard(self, hard: bool) -> None:
        """Makes a model that keeps a tail of keys drop all of them for the time being, or lets it keep them again."""
        if isinstance(self.reader, StockSubject):
            wanted = SleepSettings.of(self.reader.backbone.config)
            self.reader.backbone.settings = replace(wanted, eviction="hard", tail=0) if hard else wanted
