"""From float groups to (q, z, s), as a container stores them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from halfbyte.checkpoint.int4 import Int4Weight, IntWeight

SMALLEST_SCALE = 2.0**-24  # the smallest positive float16
LARGEST_SCALE = 65504.0


@dataclass(frozen=True, slots=True)
class Levels:
    """What a weight is rounded to: q in 0..2^bits - 1, and where among them zero may lie.

    sym: in the middle. least_zero: the smallest zero point; 1 where the container has no way to say 0.
    """

    bits: int = 4
    sym: bool = False
    least_zero: int = 0

    @property
    def top(self) -> int:
        """The largest q."""
        return (1 << self.bits) - 1


ASYMMETRIC_4 = Levels()


def grouped(weight: torch.Tensor, group_size: int) -> torch.Tensor:
    """[N, K] -> [N, K / G, G]."""
    return weight.view(weight.shape[0], -1, group_size)


def ranges(weight: torch.Tensor, group_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Least and greatest value of each group, [N, K / G] each, widened to include 0.

    Without 0 in the range a group whose weights share a sign would need a zero point outside 0..15.
    """
    low, high = torch.aminmax(grouped(weight, group_size), dim=-1)
    return low.clamp_(max=0), high.clamp_(min=0)


def grid(low: torch.Tensor, high: torch.Tensor, levels: Levels = ASYMMETRIC_4) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point for ranges: both as they will be stored (float16 values and integers), in float32."""
    if levels.sym:
        high = torch.maximum(-low, high)
        scale = _stored(2 * high, levels.top)
        return scale, torch.full_like(scale, 1 << (levels.bits - 1))
    scale = _stored(high - low, levels.top)
    zero = (-low / scale).round_().clamp_(0, levels.top)
    if levels.least_zero:  # no weight of such a group is far below zero: the levels above it span the range
        raised = zero < levels.least_zero
        scale = torch.where(raised, _stored(high, levels.top - levels.least_zero), scale)
        zero = torch.where(raised, torch.full_like(zero, levels.least_zero), zero)
    return scale, zero


def _stored(span: torch.Tensor, steps: int) -> torch.Tensor:
    """The float16 scale that takes `steps` steps over a span."""
    scale = (span / steps).clamp_(SMALLEST_SCALE, LARGEST_SCALE).half().float()
    return torch.where(span == 0, torch.ones_like(scale), scale)  # an all-zero group: any scale says 0


def steps(weight: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, top: int) -> torch.Tensor:
    """Nearest q - z (as float) of a weight [N, K], in groups [N, K / G, G]."""
    groups = grouped(weight, weight.shape[1] // scale.shape[1])
    return (groups * scale.reciprocal()[..., None]).round_().clamp_(-zero[..., None], (top - zero)[..., None])


def rounding_error(
    weight: torch.Tensor, low: torch.Tensor, high: torch.Tensor, levels: Levels = ASYMMETRIC_4
) -> torch.Tensor:
    """What rounding within the ranges adds to a weight [N, K]."""
    scale, zero = grid(low, high, levels)
    return steps(weight, scale, zero, levels.top).mul_(scale[..., None]).flatten(1).sub_(weight)


def quantize_weight(
    weight: torch.Tensor, low: torch.Tensor, high: torch.Tensor, levels: Levels = ASYMMETRIC_4
) -> IntWeight:
    """Round a weight [N, K] to nearest within the ranges."""
    scale, zero = grid(low, high, levels)
    q = steps(weight, scale, zero, levels.top).add_(zero[..., None])
    return stored_weight(q.flatten(1), scale, zero, levels.bits)


def stored_weight(q: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int) -> IntWeight:
    """From float32 q [N, K], scale and zero [N, K / G]."""
    values = q.to(torch.uint8), scale.half(), zero.to(torch.uint8)
    return Int4Weight(*values) if bits == 4 else IntWeight(*values, bits)
