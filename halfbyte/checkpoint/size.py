"""What a model takes on disk, from its config alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from halfbyte.checkpoint.config import ModelConfig
    from halfbyte.checkpoint.source import TensorInfo

FLOAT_BITS = 16  # what is not quantized is published in 16 bits
PARTS = ("embedding", "attention", "mlp", "norms", "head", "other")


@dataclass(frozen=True, slots=True)
class WeightCount:
    """Numbers of weights per part of a network, biases counted with the part that they belong to."""

    embedding: int
    attention: int  # q, k, v, o: what is quantized
    mlp: int  # gate, up, down: what is quantized
    norms: int
    biases: int
    head: int  # 0 when tied to the embedding

    @property
    def linear(self) -> int:
        """Weights that a quantizer turns into 4 bits."""
        return self.attention + self.mlp


def weight_count(config: ModelConfig) -> WeightCount:
    """Count a network's weights from its shape."""
    d, f, layers = config.hidden_size, config.intermediate_size, config.num_layers
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    biases = config.qkv_bias * (q + 2 * kv) + config.o_bias * d + config.mlp_bias * (2 * f + d)
    norms = 2 * d + config.qk_norm * 2 * config.head_dim
    embedding = config.vocab_size * d
    return WeightCount(
        embedding=embedding,
        attention=layers * (2 * d * q + 2 * d * kv),
        mlp=layers * 3 * d * f,
        norms=layers * norms + d,
        biases=layers * biases,
        head=0 if config.tie_word_embeddings else embedding,
    )


def awq_bits_per_weight(group_size: int) -> float:
    """Bits that one quantized weight takes: its 4, and its share of a float16 scale and a 4-bit zero point."""
    return 4 + 16 / group_size + 4 / group_size


def awq_size(config: ModelConfig, group_size: int) -> int:
    """Bytes of tensor data in the AutoAWQ `gemm` container: linears in 4 bits, all else in 16, tied weights once."""
    count = weight_count(config)
    kept = count.embedding + count.norms + count.biases + count.head
    return round(count.linear * awq_bits_per_weight(group_size) + kept * FLOAT_BITS) // 8


def part_of(tensor: str) -> str:
    """Which of PARTS a tensor belongs to, by its Hugging Face name."""
    if "norm." in tensor:
        return "norms"
    for sign, part in (
        ("embed_tokens.", "embedding"),
        (".self_attn.", "attention"),
        (".mlp.", "mlp"),
        ("lm_head.", "head"),
    ):
        if sign in tensor:
            return part
    return "other"


def bytes_by_part(tensors: Mapping[str, TensorInfo]) -> dict[str, int]:
    """What each of PARTS takes on disk."""
    sizes = dict.fromkeys(PARTS, 0)
    for name, info in tensors.items():
        sizes[part_of(name)] += info.nbytes
    return sizes
