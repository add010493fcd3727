"""Which tensors a network must have, by name and shape, so that a checkpoint can be held against its config."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from halfbyte.checkpoint.config import ModelConfig
    from halfbyte.checkpoint.container import Container, Shape

ATTENTION_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_LINEARS = ("gate_proj", "up_proj", "down_proj")
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def expected_tensors(config: ModelConfig, container: Container | None) -> dict[str, Shape]:
    """Every tensor of a network, those that a container calls optional among them.

    Raises ConfigError for a linear that the container cannot hold.
    """
    shapes: dict[str, Shape] = {"model.embed_tokens.weight": (config.vocab_size, config.hidden_size)}
    for layer in range(config.num_layers):
        for prefix, (n, k), has_bias in _linears(config, layer):
            shapes |= _linear(prefix, n, k, container)
            if has_bias:
                shapes[f"{prefix}.bias"] = (n,)
        shapes |= _norms(config, layer)
    shapes["model.norm.weight"] = (config.hidden_size,)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, config.hidden_size)
    return shapes


def linear_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Every linear between embedding and head, by the prefix of its tensors: [N, K]."""
    return {prefix: shape for layer in range(config.num_layers) for prefix, shape, _ in _linears(config, layer)}


def layer_of(name: str) -> int | None:
    """The layer that a tensor belongs to, or None for embedding, last norm and head."""
    match = _LAYER.search(name)
    return int(match[1]) if match else None


def _linears(config: ModelConfig, layer: int) -> Iterator[tuple[str, tuple[int, int], bool]]:
    """(prefix, (N, K), whether it has a bias) of one layer's linears."""
    d, f = config.hidden_size, config.intermediate_size
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    for name, shape in zip(ATTENTION_LINEARS, ((q, d), (kv, d), (kv, d), (d, q)), strict=True):
        yield f"model.layers.{layer}.self_attn.{name}", shape, config.o_bias if name == "o_proj" else config.qkv_bias
    for name, shape in zip(MLP_LINEARS, ((f, d), (f, d), (d, f)), strict=True):
        yield f"model.layers.{layer}.mlp.{name}", shape, config.mlp_bias


def _norms(config: ModelConfig, layer: int) -> dict[str, Shape]:
    prefix = f"model.layers.{layer}"
    shapes: dict[str, Shape] = {
        f"{prefix}.input_layernorm.weight": (config.hidden_size,),
        f"{prefix}.post_attention_layernorm.weight": (config.hidden_size,),
    }
    if config.qk_norm:
        shapes |= {f"{prefix}.self_attn.{name}_norm.weight": (config.head_dim,) for name in "qk"}
    return shapes


def _linear(prefix: str, n: int, k: int, container: Container | None) -> dict[str, Shape]:
    if container is None or not container.converts(prefix):
        return {f"{prefix}.weight": (n, k)}
    return {f"{prefix}.{suffix}": shape for suffix, shape in container.shapes(prefix, n, k).items()}
