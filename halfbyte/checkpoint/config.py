"""A model's shape, read once from config.json in any of its spellings; nothing else looks into that file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

RopeType = Literal["default", "linear", "dynamic", "llama3", "yarn"]


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding: base period and how it is stretched. Field names are those of config.json."""

    theta: float = 10000.0
    rope_type: RopeType = "default"
    factor: float = 1.0
    original_max_position_embeddings: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The network that the weights are for."""

    architecture: str  # the name in config.json's `architectures`, e.g. "LlamaForCausalLM"
    model_type: str  # "llama", "mistral", "qwen2", "qwen3"
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    rope: RopeConfig
    tie_word_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    sliding_windows: tuple[int | None, ...]  # per layer; None attends to everything before it

    @classmethod
    def from_dict(cls, config: dict[str, Any], spec: str) -> ModelConfig:
        """Read a config.json. `spec` names the source in messages. Raises ConfigError naming the field."""
        raise NotImplementedError
