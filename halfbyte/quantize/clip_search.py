"""Clipping: a group's range is shrunk where a finer grid for the many outweighs the loss of the few at its ends.

The error of one group, all others left alone, is d H_g dᵀ with H_g the group's diagonal block of H: exact for the
group itself and cheap, where the originals run sampled tokens.
"""

from __future__ import annotations

import torch

from halfbyte.quantize.rounding import ASYMMETRIC_4, Levels, grouped, ranges, rounding_error

SHRINKS = tuple(1 - step / 20 for step in range(1, 10))  # 0.95 .. 0.55


def search_ranges(
    weight: torch.Tensor, H: torch.Tensor, group_size: int, levels: Levels = ASYMMETRIC_4
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ranges [N, K / G] for a weight [N, K] whose inputs have H [K, K]."""
    low, high = ranges(weight, group_size)
    blocks = diagonal_blocks(H, group_size)
    best_low, best_high = low.clone(), high.clone()
    best = group_errors(weight, low, high, blocks, levels)
    for shrink in SHRINKS:
        error = group_errors(weight, low * shrink, high * shrink, blocks, levels)
        better = error < best
        best = torch.where(better, error, best)
        best_low = torch.where(better, low * shrink, best_low)
        best_high = torch.where(better, high * shrink, best_high)
    return best_low, best_high


def diagonal_blocks(H: torch.Tensor, group_size: int) -> torch.Tensor:
    """[K, K] -> [K / G, G, G]."""
    count = H.shape[0] // group_size
    return H.view(count, group_size, count, group_size).diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()


def group_errors(
    weight: torch.Tensor, low: torch.Tensor, high: torch.Tensor, blocks: torch.Tensor, levels: Levels = ASYMMETRIC_4
) -> torch.Tensor:
    """Error of each group on its own, [N, K / G]."""
    delta = grouped(rounding_error(weight, low, high, levels), blocks.shape[1]).transpose(0, 1)  # [K / G, N, G]
    return torch.bmm(delta, blocks).mul_(delta).sum(-1).T
