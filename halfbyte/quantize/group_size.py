"""Which group size a model's layers allow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfbyte.errors import QuantizeError
from halfbyte.quantize.options import AUTO_GROUP_SIZES

if TYPE_CHECKING:
    from halfbyte.checkpoint.config import ModelConfig


def layer_inputs(config: ModelConfig) -> dict[str, int]:
    """Inputs of each kind of quantized linear, by the name of its module within a block."""
    heads = config.num_heads * config.head_dim
    return {
        "self_attn.q_proj": config.hidden_size,
        "self_attn.o_proj": heads,
        "mlp.gate_proj": config.hidden_size,
        "mlp.down_proj": config.intermediate_size,
    }


def layer_outputs(config: ModelConfig) -> dict[str, int]:
    """Outputs of each kind of quantized linear."""
    return {
        "self_attn.q_proj": config.num_heads * config.head_dim,
        "self_attn.k_proj": config.num_kv_heads * config.head_dim,
        "self_attn.o_proj": config.hidden_size,
        "mlp.gate_proj": config.intermediate_size,
    }


def choose_group_size(config: ModelConfig, wanted: int | str) -> int:
    """The group size to use. Raises QuantizeError, naming the layer and the sizes that would do, unless it divides."""
    for layer, outputs in layer_outputs(config).items():
        if outputs % 8:
            raise QuantizeError(
                f"{layer} has {outputs} outputs; the AWQ container packs 8 a word, so N must divide by 8"
            )
    inputs = layer_inputs(config)
    possible = [g for g in AUTO_GROUP_SIZES if all(k % g == 0 for k in inputs.values())]
    if wanted == "auto":
        if not possible:
            shapes = ", ".join(f"{layer} {k}" for layer, k in inputs.items())
            raise QuantizeError(f"none of the group sizes {AUTO_GROUP_SIZES} divides every layer's inputs ({shapes})")
        return possible[0]
    size = int(wanted)
    if size == -1:
        return -1
    for layer, k in inputs.items():
        if k % size:
            would = ", ".join(map(str, possible)) or "none of 128, 64, 32"
            raise QuantizeError(
                f"group size {size} does not divide the {k} inputs of model.layers.*.{layer}; sizes that would: {would}"
            )
    return size
