"""From float groups to (q, z, s): asymmetric 4 bits, as the container stores them."""

from __future__ import annotations

import torch

from halfbyte.checkpoint.int4 import Int4Weight

LEVELS = 15
SMALLEST_SCALE = 2.0**-24  # the smallest positive float16
LARGEST_SCALE = 65504.0


def grouped(weight: torch.Tensor, group_size: int) -> torch.Tensor:
    """[N, K] -> [N, K / G, G]."""
    return weight.view(weight.shape[0], -1, group_size)


def ranges(weight: torch.Tensor, group_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Least and greatest value of each group, [N, K / G] each, widened to include 0.

    Without 0 in the range a group whose weights share a sign would need a zero point outside 0..15.
    """
    low, high = torch.aminmax(grouped(weight, group_size), dim=-1)
    return low.clamp_(max=0), high.clamp_(min=0)


def grid(low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point for ranges: both as they will be stored (float16 values and 0..15), in float32."""
    span = high - low
    scale = (span / LEVELS).clamp_(SMALLEST_SCALE, LARGEST_SCALE).half().float()
    scale = torch.where(span == 0, torch.ones_like(scale), scale)  # an all-zero group: any scale says 0
    return scale, (-low / scale).round_().clamp_(0, LEVELS)


def steps(weight: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """Nearest q - z (as float) of a weight [N, K], in groups [N, K / G, G]."""
    groups = grouped(weight, weight.shape[1] // scale.shape[1])
    return (groups * scale.reciprocal()[..., None]).round_().clamp_(-zero[..., None], (LEVELS - zero)[..., None])


def rounding_error(weight: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """What rounding within the ranges adds to a weight [N, K]."""
    scale, zero = grid(low, high)
    return steps(weight, scale, zero).mul_(scale[..., None]).flatten(1).sub_(weight)


def quantize_weight(weight: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> Int4Weight:
    """Round a weight [N, K] to nearest within the ranges."""
    scale, zero = grid(low, high)
    q = steps(weight, scale, zero).add_(zero[..., None])
    return Int4Weight(q=q.flatten(1).to(torch.uint8), s=scale.half(), z=zero.to(torch.uint8))
