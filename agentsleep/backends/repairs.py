"""What makes a stock model read on rightly from a state; done to the model at hand, never to transformers.

A module that is mended gets a class of its own, derived from the one it had and of the same name, so that copies of the
model are mended as well and checkpoints say the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from agentsleep.backends.cache import kept_for_backward, open_cache, state_of
from agentsleep.state import FastWeights

_PROBED = 3  # tokens that a mixer is probed with


def repair(model: PreTrainedModel) -> tuple[str, ...]:
    """Mends what is known to be wrong, where it is wrong; a second call finds nothing left to do.

    Returns:
        What was done, a line each.
    """
    config = model.config.get_text_config(decoder=True)
    done = []
    if said := _one_name_for_the_cache(model):
        done.append(said)
    if said := _equal_steps(model, config):
        done.append(said)
    if said := _scans_from_a_state(model, config):
        done.append(said)
    return tuple(done)


def _become(module: nn.Module, **methods: Callable[..., Any]) -> None:
    kind = type(module)
    module.__class__ = type(kind.__name__, (kind,), {"__module__": kind.__module__, "__doc__": kind.__doc__, **methods})


def _parameters(module: nn.Module) -> set[str]:
    return set(inspect.signature(module.forward).parameters)


# Mamba and Mamba-2 without attention take their cache by another name.


def _one_name_for_the_cache(model: PreTrainedModel) -> str | None:
    mended = False
    for module in dict.fromkeys((model, model.base_model)):
        taken = _parameters(module)
        if "cache_params" in taken and "past_key_values" not in taken:
            forward = type(module).forward

            def renamed(
                self: nn.Module,
                *args: Any,
                past_key_values: Any = None,
                position_ids: Tensor | None = None,  # a model without attention has no positions
                _forward: Callable[..., Any] = forward,
                **kwargs: Any,
            ) -> Any:
                kwargs.setdefault("cache_params", past_key_values)
                return _forward(self, *args, **kwargs)

            _become(module, forward=renamed)
            mended = True
    return "its forward takes the cache as past_key_values, too (it knew cache_params alone)" if mended else None


# Mamba-2 with a least step


def _equal_steps(model: PreTrainedModel, config: PreTrainedConfig) -> str | None:
    """Some mixers of transformers clamp dt to ``(time_step_min, inf)`` when they read a chunk and not when they read
    one token, though ``time_step_min`` is a setting of the first weights, not of the recurrence. Its limits are
    ``config.time_step_limit``, by default (0, inf); with these both ways agree."""
    limits = tuple(getattr(config, "time_step_limit", None) or (0.0, float("inf")))
    clamping = [m for m in model.modules() if tuple(getattr(m, "time_step_limit", None) or limits) != limits]
    for mixer in clamping:
        mixer.time_step_limit = limits  # type: ignore[assignment]
    if not clamping:
        return None
    return f"{len(clamping)} Mamba-2 mixers clamped dt in chunks but not token by token; both now keep to {limits}"


# Mamba-1, whose scan of several tokens starts from zero whatever came before


def _scans_from_a_state(model: PreTrainedModel, config: PreTrainedConfig) -> str | None:
    ignoring: dict[type, bool] = {}
    mended = 0
    for mixer in _mixers(model):
        kind = type(mixer)
        if kind not in ignoring:
            ignoring[kind] = _ignores_its_state(mixer, config)
        if ignoring[kind]:
            _become(mixer, forward=_token_by_token(kind.forward))
            mended += 1
    if not mended:
        return None
    return (
        f"{mended} Mamba-1 mixers ignored their state when they read several tokens; from a live state they now read "
        "one at a time, which is exact and slower"
    )


def _mixers(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        if hasattr(module, "A_log") and hasattr(module, "layer_idx") and "cache_params" in _parameters(module):
            yield module


@torch.no_grad()
def _ignores_its_state(mixer: nn.Module, config: PreTrainedConfig) -> bool:
    """Whether several tokens come out the same, bit for bit, from a state and from zeros, though one token does not."""
    weight = next(mixer.parameters())
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, _PROBED, config.hidden_size, generator=draw).to(weight.device, weight.dtype)
    try:
        cache = open_cache(config, FastWeights())
        mixer(hidden, cache_params=cache)
        live = state_of(cache)
        blank = live.merged({name: torch.zeros_like(t) for name, t in live.only("recurrent").items()})
        one, several = (
            [mixer(hidden[:, :length], cache_params=open_cache(config, state)) for state in (live, blank)]
            for length in (1, _PROBED)
        )
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError):
        return False  # called otherwise; whether the whole model reads on rightly is seen by the capability probe
    return bool(torch.equal(*several)) and not bool(torch.equal(*one))


def _token_by_token(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The mixer's forward, with its own path for one token where several are read from a live state."""

    def continued(
        self: nn.Module, hidden_states: Tensor, cache_params: Any = None, attention_mask: Any = None, **kwargs: Any
    ) -> Tensor:
        layer = None if cache_params is None else cache_params.layers[self.layer_idx]
        if layer is None or not layer.is_recurrent_states_initialized[0]:
            return forward(self, hidden_states, cache_params, attention_mask, **kwargs)
        if layer.conv_states[0] is None:  # a pass starts with fresh tails
            conv: Any = self.conv1d
            layer.update_conv_state(
                hidden_states.new_zeros(hidden_states.shape[0], conv.in_channels, conv.kernel_size[0]),
                conv_kernel_size=conv.kernel_size[0],
            )
        if hidden_states.shape[1] == 1:
            return _step(forward, self, layer, hidden_states, cache_params, attention_mask, kwargs)
        outputs = []
        for i in range(hidden_states.shape[1]):
            token = slice(i, i + 1)
            mask = attention_mask[:, token] if isinstance(attention_mask, Tensor) else None
            outputs.append(_step(forward, self, layer, hidden_states[:, token], cache_params, mask, kwargs))
        return torch.cat(outputs, 1)

    return continued


def _step(
    forward: Callable[..., Tensor], mixer: nn.Module, layer: Any, hidden: Tensor, cache: Any, mask: Any, kwargs: Any
) -> Tensor:
    """One token, which writes into the state in place: what the step before left is not to change."""
    if torch.is_grad_enabled():
        layer.recurrent_states[0] = layer.recurrent_states[0].clone()
        layer.conv_states[0] = layer.conv_states[0].clone()
    with kept_for_backward(cache):
        return forward(mixer, hidden, cache, mask, **kwargs)
