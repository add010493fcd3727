"""From float groups to (q, z, s): asymmetric 4 bits, as the container stores them."""

from __future__ import annotations

import torch

from halfbyte.checkpoint.int4 import Int4Weight

LEVELS = 15
SMALLEST_SCALE = 2.0**-24  # the smallest positive float16
LARGEST_SCALE = 65504.0


def grouped(weight: torch.Tensor, group_size: int) -> torch.Tensor:
    """[N, K] -> [N, K / G, G]."""
    return weight.unflatten(1, (-1, group_size))


def ranges(weight: torch.Tensor, group_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Least and greatest value of each group, [N, K / G] each, widened to include 0.

    Without 0 in the range a group whose weights share a sign would need a zero point outside 0..15.
    """
    groups = grouped(weight, group_size)
    return groups.amin(-1).clamp_(max=0), groups.amax(-1).clamp_(min=0)


def grid(low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point for ranges: both as they will be stored (float16 values and 0..15), in float32."""
    span = high - low
    scale = (span / LEVELS).clamp_(SMALLEST_SCALE, LARGEST_SCALE).half().float()
    scale = torch.where(span == 0, torch.ones_like(scale), scale)  # an all-zero group: any scale says 0
    return scale, (-low / scale).round_().clamp_(0, LEVELS)


def round_to_grid(groups: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """Nearest q (float, 0..15) of groups [N, K / G, G]."""
    return (groups / scale[..., None]).round_().add_(zero[..., None]).clamp_(0, LEVELS)


def fake_quantize(weight: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """The float weight [N, K] that quantizing within the ranges would leave."""
    scale, zero = grid(low, high)
    q = round_to_grid(grouped(weight, weight.shape[1] // low.shape[1]), scale, zero)
    return q.sub_(zero[..., None]).mul_(scale[..., None]).flatten(1)


def quantize_weight(weight: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> Int4Weight:
    """Round a weight [N, K] to nearest within the ranges."""
    scale, zero = grid(low, high)
    q = round_to_grid(grouped(weight, weight.shape[1] // low.shape[1]), scale, zero)
    return Int4Weight(q=q.flatten(1).to(torch.uint8), s=scale.half(), z=zero.to(torch.uint8))
