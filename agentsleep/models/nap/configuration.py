"""Configuration of nap, the reference hybrid."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from agentsleep.errors import SettingsError

FEEDBACKS = ("norm+embed", "hidden")
RULES = ("delta", "hebbian")
EVICTIONS = ("hard", "sliding")
_LAYER_TYPES = {"a": "full_attention", "s": "linear_attention"}


class NapConfig(PreTrainedConfig):
    """Settings of a :class:`NapForCausalLM`.

    Args:
        pattern: the block stack, one letter a block: ``a`` attention, ``s`` SSM (linear attention).
        rule: fast-weight rule of the SSM blocks, ``delta`` (gated delta rule) or ``hebbian`` (Mamba-2 form).
        linear_num_heads, linear_key_head_dim, linear_value_head_dim: H, K and V of S ``[B, H, K, V]``.
        linear_conv_kernel_dim: width W of the causal convolution.
        initializer_range: standard deviation of the embeddings. The residual stream starts from them, and
            ``norm+embed`` adds them to a normed state: near 1 they are heard there, at the usual 0.02 they are not.
        sleep_window: L, the tokens a window holds (the KV cache never grows past it).
        sleep_passes: N of a light sleep where the user names none.
        sleep_rounds: how often a deep sleep reads each window again where the user names none.
        sleep_feedback: the input of the next pass: ``norm+embed`` (final norm of the hidden states plus the
            embedding) or ``hidden`` (the hidden states as they are; the paper's form).
        sleep_eviction: what attention keeps of a window that was slept on: nothing (``hard``), or the keys of its last
            L - 1 tokens (``sliding``; every token then sees the L - 1 before it, across windows).
        sleep_pin: what is read again at the head of every window: any of ``system`` and ``tools``.

    Raises:
        SettingsError: an unknown pattern, rule, feedback or eviction.
    """

    model_type = "nap"
    keys_to_ignore_at_inference = ("past_key_values",)

    def __init__(
        self,
        vocab_size: int = 512,
        hidden_size: int = 64,
        intermediate_size: int = 256,
        pattern: str = "asas",
        rule: str = "delta",
        num_attention_heads: int = 4,
        linear_num_heads: int = 4,
        linear_key_head_dim: int = 16,
        linear_value_head_dim: int = 16,
        linear_conv_kernel_dim: int = 4,
        rope_theta: float = 10000.0,
        rms_norm_eps: float = 1e-6,
        initializer_range: float = 1.0,
        sleep_window: int = 64,
        sleep_passes: int = 4,
        sleep_rounds: int = 1,
        sleep_feedback: str = "norm+embed",
        sleep_eviction: str = "hard",
        sleep_pin: tuple[str, ...] | list[str] = ("system", "tools"),
        **kwargs: Any,
    ) -> None:
        if not pattern or set(pattern) - set(_LAYER_TYPES):
            raise SettingsError(f"pattern {pattern!r} must be letters 'a' (attention) and 's' (SSM), such as 'asas'")
        if rule not in RULES:
            raise SettingsError(f"rule {rule!r} is not one of {RULES}")
        if sleep_feedback not in FEEDBACKS:
            raise SettingsError(f"sleep_feedback {sleep_feedback!r} is not one of {FEEDBACKS}")
        if sleep_eviction not in EVICTIONS:
            raise SettingsError(f"sleep_eviction {sleep_eviction!r} is not one of {EVICTIONS}")
        if hidden_size % (2 * num_attention_heads):
            raise SettingsError(f"hidden_size {hidden_size} must be an even multiple of {num_attention_heads} heads")
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.pattern = pattern
        self.rule = rule
        self.num_hidden_layers = len(pattern)
        self.layer_types = [_LAYER_TYPES[letter] for letter in pattern]
        self.num_attention_heads = num_attention_heads
        self.linear_num_heads = linear_num_heads
        self.linear_key_head_dim = linear_key_head_dim
        self.linear_value_head_dim = linear_value_head_dim
        self.linear_conv_kernel_dim = linear_conv_kernel_dim
        self.rope_theta = rope_theta
        self.rms_norm_eps = rms_norm_eps
        self.initializer_range = initializer_range
        self.max_position_embeddings = sleep_window
        self.sleep_window = sleep_window
        self.sleep_passes = sleep_passes
        self.sleep_rounds = sleep_rounds
        self.sleep_feedback = sleep_feedback
        self.sleep_eviction = sleep_eviction
        self.sleep_pin = list(sleep_pin)
        for derived in ("num_hidden_layers", "layer_types", "max_position_embeddings"):
            kwargs.pop(derived, None)  # they follow from the pattern and the window, also when read from a file
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)
