"""AWQ's search (arXiv:2306.00978): scale salient input channels up before rounding, and the input down by as much.

Both published formulas are tried: x̄^r (llm-awq) and x̄^r / w̄^(1-r) (AutoAWQ's "duo"), r on a coarse grid, then finer
around the best. Where the originals measure each candidate by running the module, its error here is tr(dW H dWᵀ).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from halfbyte.quantize.rounding import ASYMMETRIC_4, Levels, grouped, ranges, rounding_error
from halfbyte.quantize.statistics import output_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from halfbyte.quantize.statistics import InputStatistics

SEARCH_ROWS = 256  # outputs, evenly spaced, that candidates are judged by: ten times fewer products, the same choices
ROWS_AT_ONCE = 2048  # of a weight, copied
COARSE = 10  # ratios 0, 1/10 .. 1
FINE = (-0.05, 0.05)  # added to the best of them
LEAST_ACTIVITY = 1e-3  # of the mean: a dead channel is not scaled out of existence


@dataclass(slots=True)
class ScaleChoice:
    """The winning scale [K]; formula "none" and ratio 0 where no scaling beat plain rounding.

    The errors are those of the outputs that were looked at.
    """

    scale: torch.Tensor
    formula: str
    ratio: float
    error: float
    unscaled_error: float


def search_scale(
    weight: torch.Tensor,
    stats: InputStatistics,
    group_size: int,
    slots: torch.Tensor | None = None,
    levels: Levels = ASYMMETRIC_4,
) -> ScaleChoice:
    """Find the scale for a weight [N, K] (all the linears that share the input, stacked).

    slots [K]: channels with the same number must share a scale (the heads that read one key-value head).
    """
    magnitude = shared(relative_magnitude(weight, group_size), slots)
    weight = weight[:: -(-weight.shape[0] // SEARCH_ROWS)]
    low, high = ranges(weight, group_size)
    unscaled = output_error(rounding_error(weight, low, high, levels), stats.H).item()
    best = ScaleChoice(torch.ones_like(weight[0]), "none", 0.0, unscaled, unscaled)
    activity = shared(stats.mean_abs, slots)
    activity = (activity / activity.mean().clamp(min=1e-30)).clamp_(min=LEAST_ACTIVITY)

    def delta_of(scale: torch.Tensor) -> torch.Tensor:
        scaled = weight * scale
        return rounding_error(scaled, *ranges(scaled, group_size), levels).div_(scale)

    def errors_of(scales: list[torch.Tensor]) -> list[float]:
        if not weight.is_cuda:
            return [output_error(delta_of(scale), stats.H).item() for scale in scales]
        deltas = torch.cat([delta_of(scale) for scale in scales])  # a GPU reads H once for all, and is waited for once
        found: list[float] = torch.mm(deltas, stats.H).mul_(deltas).view(len(scales), -1).sum(1).tolist()
        return found

    for formula in ("x", "x/w"):
        for ratios in _coarse_then_fine(best, formula):
            scales = [candidate(activity, magnitude, ratio, formula) for ratio in ratios]
            errors = errors_of(scales)
            for ratio, scale, error in zip(ratios, scales, errors, strict=True):
                if error < best.error:
                    best.scale, best.formula, best.ratio, best.error = scale, formula, ratio, error
    return best


def _coarse_then_fine(best: ScaleChoice, formula: str) -> Iterator[list[float]]:
    yield [i / COARSE for i in range(COARSE + 1)]
    if best.formula == formula:
        yield [best.ratio + step for step in FINE if 0 <= best.ratio + step <= 1]


def candidate(activity: torch.Tensor, magnitude: torch.Tensor, ratio: float, formula: str) -> torch.Tensor:
    """One candidate scale [K], normalised so that its greatest and least values are reciprocal."""
    scale = activity**ratio
    if formula == "x/w":
        scale = scale / (magnitude ** (1 - ratio) + 1e-4)
    scale = scale.clamp(min=1e-4)
    return scale / (scale.max() * scale.min()).sqrt()


def relative_magnitude(weight: torch.Tensor, group_size: int) -> torch.Tensor:
    """Mean over outputs of |w| / max|w| within its group, [K]."""
    total = torch.zeros_like(weight[0])
    for begin in range(0, weight.shape[0], ROWS_AT_ONCE):
        groups = grouped(weight[begin : begin + ROWS_AT_ONCE].abs(), group_size)
        total += groups.div_(groups.amax(-1, keepdim=True).clamp_(min=1e-8)).sum(0).flatten()
    return total / weight.shape[0]


def shared(values: torch.Tensor, slots: torch.Tensor | None) -> torch.Tensor:
    """Replace each channel's value by the mean over the channels of its slot."""
    if slots is None:
        return values
    count = int(slots.max()) + 1
    sums = values.new_zeros(count).index_add_(0, slots, values)
    return (sums / torch.bincount(slots, minlength=count))[slots]
