"""What a model takes on disk: by formula from its config, and part by part from its tensors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from halfbyte.checkpoint.expected import expected_tensors, linear_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from halfbyte.checkpoint.config import ModelConfig
    from halfbyte.checkpoint.source import TensorInfo

FLOAT_BITS = 16  # what is not quantized is published in 16 bits
PARTS = ("embedding", "attention", "mlp", "norms", "head", "other")
_SIGNS = {"embed_tokens.": "embedding", ".self_attn.": "attention", ".mlp.": "mlp", "lm_head.": "head"}


def weight_count(config: ModelConfig) -> int:
    """Weights of a network; tied ones count once."""
    return sum(math.prod(shape) for shape in expected_tensors(config, None).values())


def linear_weight_count(config: ModelConfig) -> int:
    """Those of its weights that a quantizer turns into 4 bits."""
    return sum(math.prod(shape) for shape in linear_shapes(config).values())


def awq_bits_per_weight(group_size: int) -> float:
    """Bits that one quantized weight takes: its 4, and its share of a float16 scale and a 4-bit zero point."""
    return 4 + 16 / group_size + 4 / group_size


def awq_size(config: ModelConfig, group_size: int) -> int:
    """Bytes of tensor data in the AutoAWQ `gemm` container: linears in 4 bits, all else in 16, tied weights once."""
    linear = linear_weight_count(config)
    kept = weight_count(config) - linear
    return round(linear * awq_bits_per_weight(group_size) + kept * FLOAT_BITS) // 8


def part_of(tensor: str) -> str:
    """Which of PARTS a tensor belongs to, by its Hugging Face name."""
    if "norm." in tensor:
        return "norms"
    return next((part for sign, part in _SIGNS.items() if sign in tensor), "other")


def bytes_by_part(tensors: Mapping[str, TensorInfo]) -> dict[str, int]:
    """What each of PARTS takes on disk."""
    sizes = dict.fromkeys(PARTS, 0)
    for name, info in tensors.items():
        sizes[part_of(name)] += info.nbytes
    return sizes
