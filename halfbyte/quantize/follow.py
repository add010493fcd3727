"""Making up, in each layer, for what the quantized layers before it lost.

The layer receives x̂ where the float model's received x. The weight whose output on x̂ comes nearest to W x is
W + W D Ĥ⁻¹ with D = sum of (x - x̂) x̂ᵀ and Ĥ = sum of x̂ x̂ᵀ (GPTAQ, arXiv:2504.02692, calls this asymmetric
calibration). What was lost depends on the text: the whole way, or little damping, does better on the calibration text,
on held-out parts of it too, and worse on other text than not to follow at all. It must be Ĥ here, although rounding
does better with the float model's H: with that the step has no bound where x̂ outgrew x, and errors feed themselves.
"""

from __future__ import annotations

import torch

SHARE = 0.5  # of the way from W to that weight
DAMPING = 0.5  # of H's mean diagonal, added to it: only along the inputs' main directions
ROWS = 4096  # of a weight, taken at once


def followed(weight: torch.Tensor, difference: torch.Tensor, H: torch.Tensor) -> torch.Tensor:
    """The weight [N, K] to round instead of `weight`; difference: D [K, K]; H: Ĥ [K, K], which is used up."""
    H.diagonal().add_(DAMPING * H.diagonal().mean().clamp(min=1e-30))
    lower, failed = torch.linalg.cholesky_ex(H)
    if failed:  # with so much damping only where the numbers themselves are out of range
        return weight
    first = len(weight) > len(H)  # D Ĥ⁻¹ is then less to solve for than W D Ĥ⁻¹
    aim = torch.empty_like(weight)
    step = _solved(difference, lower) if first else difference
    for begin in range(0, len(weight), ROWS):
        rows = slice(begin, begin + ROWS)
        way = torch.mm(weight[rows], step)
        aim[rows] = weight[rows] + SHARE * (way if first else _solved(way, lower))
    return aim


def _solved(rows: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
    """rows Ĥ⁻¹, with Ĥ + its damping = L Lᵀ."""
    return torch.cholesky_solve(rows.T, lower).T
