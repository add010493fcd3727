"""AutoAWQ's `gemm` container: weights stored input-major and packed along the output, eight 4-bit values a word.

For a linear with K inputs, N outputs and groups of G inputs:

    qweight  int32   [K, N / 8]       q of w = (q - z) * s
    qzeros   int32   [K / G, N / 8]   z, packed alike, without GPTQ's -1
    scales   float16 [K / G, N]

Nibble i (bits 4i..4i+3) of word c holds column 8c + NIBBLE_COLUMNS[i].
"""

from __future__ import annotations

import torch

from halfbyte.checkpoint.int4 import Int4Weight, IntWeight
from halfbyte.errors import CheckpointError

NIBBLE_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)


def pack_columns(values: torch.Tensor) -> torch.Tensor:
    """Uint8 [R, N] with values 0..15 -> int32 [R, N / 8]."""
    rows, columns = values.shape
    assert columns % 8 == 0, columns
    nibbles = values.view(rows, columns // 8, 8)[..., list(NIBBLE_COLUMNS)]
    pairs = nibbles[..., 0::2] | (nibbles[..., 1::2] << 4)  # low nibble first: four little-endian bytes are one word
    return pairs.contiguous().view(torch.int32).view(rows, columns // 8)


def unpack_columns(words: torch.Tensor) -> torch.Tensor:
    """Int32 [R, N / 8] -> uint8 [N, R], transposed: to turn words around is faster than to turn single values."""
    rows, groups = words.shape
    four = words.T.contiguous().view(-1).view(torch.uint8).view(groups, rows, 4)
    out = torch.empty(groups, 8, rows, dtype=torch.uint8, device=words.device)
    for i in range(4):
        pairs = four[..., i].contiguous()
        torch.bitwise_and(pairs, 15, out=out[:, NIBBLE_COLUMNS[2 * i]])
        torch.bitwise_right_shift(pairs, 4, out=out[:, NIBBLE_COLUMNS[2 * i + 1]])
    return out.view(-1, rows)


def pack_gemm(weight: IntWeight) -> dict[str, torch.Tensor]:
    """The three tensors of the container, by the suffix of their name."""
    return {
        "qweight": pack_columns(weight.q.T.contiguous()),
        "qzeros": pack_columns(weight.z.T.contiguous()),
        "scales": weight.s.T.to(torch.float16).contiguous(),
    }


def unpack_gemm(qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor) -> Int4Weight:
    """Read the three tensors back. Raises CheckpointError if their shapes do not belong together."""
    inputs, words = qweight.shape
    groups, outputs = scales.shape
    if outputs != words * 8 or tuple(qzeros.shape) != (groups, words) or groups == 0 or inputs % groups:
        raise CheckpointError(
            f"qweight {list(qweight.shape)}, qzeros {list(qzeros.shape)} and scales {list(scales.shape)} do not belong "
            "to one AWQ linear: expected [K, N/8], [K/G, N/8] and [K/G, N]"
        )
    return Int4Weight(q=unpack_columns(qweight), s=scales.T.contiguous(), z=unpack_columns(qzeros))
