"""AutoAWQ's two other containers, `gemv` and `gemv_fast`; they are read, and not written.

Both keep [N, K] as it is and pad their groups to W words of eight: W is the number of words that K / G zero points
need, rounded up to a multiple of 2 at G = 64 and of 4 at G = 32 (`padded_groups`).

gemv, packed along K in natural order, the lowest nibble first:

    qweight  int32   [N, K / 8]     q of w = (q - z) * s
    qzeros   int32   [N, W]         z
    scales   float16 [N, 8 * W]

gemv_fast, llm-awq's layout, which interleaves four rows:

    qweight  int16   [N / 4, K]     of 64 words, 16 are of each row in turn, four columns a word in the order of
                                    `fast_order`
    qzeros   float16 [8 * W, N]     -(s * z), rounded to float16; the z it came from is found again by rounding
    scales   float16 [8 * W, N]
"""

from __future__ import annotations

import torch

from halfbyte.checkpoint.bits import unpack_bits
from halfbyte.checkpoint.int4 import IntWeight
from halfbyte.errors import CheckpointError

ROWS = 4  # interleaved in gemv_fast
STRIDE = 64  # columns of one row that lie together there
LARGEST_ZERO = 15
_OFF_GRID = 0.05  # of a step, how far a stored -(s * z) may be from a whole z; float16 itself is within 0.008


def fast_order() -> torch.Tensor:
    """Which column the 32 places of a run hold: 0, 8, 16, 24, 1, 9, 17, 25, 2, 10, .."""
    return torch.arange(32).view(4, 4, 2).permute(1, 2, 0).reshape(32)


def padded_groups(k: int, group_size: int) -> int:
    """Groups of K inputs, padded as both containers store them."""
    multiple = {64: 2, 32: 4}.get(group_size, 1)
    words = -(-(k // group_size) // 8)
    return -(-words // multiple) * multiple * 8


def unpack_gemv(qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor, group_size: int) -> IntWeight:
    """Read a gemv linear."""
    k = qweight.shape[1] * 8
    groups = k // group_size
    return IntWeight(unpack_bits(qweight, 4, k), scales[:, :groups].contiguous(), unpack_bits(qzeros, 4, groups))


def unpack_gemv_fast(
    prefix: str, qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor, group_size: int
) -> IntWeight:
    """Read a gemv_fast linear. Raises CheckpointError if its zero points are not whole numbers of 4 bits."""
    k = qweight.shape[1]
    groups = k // group_size
    s, shift = scales[:groups].T.contiguous(), qzeros[:groups].T.float()
    exact = torch.where(s == 0, torch.zeros_like(shift), -shift / s.float())
    z = exact.round()
    if ((exact - z).abs() > _OFF_GRID).any() or (z < 0).any() or (z > LARGEST_ZERO).any():
        raise CheckpointError(
            f"{prefix}.qzeros is not -(scale * zero) with zeros of 0..{LARGEST_ZERO}, as gemv_fast stores them"
        )
    return IntWeight(_unpack_fast(qweight), s, z.to(torch.uint8))


def _unpack_fast(words: torch.Tensor) -> torch.Tensor:
    """Int16 [N / 4, K] -> uint8 [N, K]."""
    blocks, k = words.shape
    nibbles = torch.stack([((words >> (4 * r)) & 15).to(torch.uint8) for r in range(ROWS)], -1)
    runs = nibbles.view(blocks, k // STRIDE, ROWS, STRIDE).transpose(1, 2).reshape(blocks * ROWS, k // 32, 32)
    values = torch.empty_like(runs)
    values[..., fast_order()] = runs
    return values.flatten(1)
