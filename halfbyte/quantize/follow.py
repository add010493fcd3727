"""Making up, in each layer, for what the quantized layers before it lost.

The layer receives x̂ where the float model's received x. The weight whose output on x̂ comes nearest to W x is about
W + W D H⁻¹ with D = sum of (x - x̂) x̂ᵀ and H = sum of x xᵀ (GPTAQ, arXiv:2504.02692, which takes x̂ for H too, calls
this asymmetric calibration). How the loss depends on the input is what calibration text tells worst: the whole way, or
little damping, does better on that text, held-out parts of it included, and worse than no step at all on other text.
"""

from __future__ import annotations

import torch

SHARE = 0.5  # of the way from W to that weight
DAMPING = 0.5  # of H's mean diagonal, added to it: only along the inputs' main directions
ROWS = 4096  # of a weight, taken at once


def followed(weight: torch.Tensor, difference: torch.Tensor, H: torch.Tensor) -> torch.Tensor:
    """The weight [N, K] to round instead of `weight`; difference: D [K, K]; H [K, K]."""
    damped = H.clone()
    damped.diagonal().add_(DAMPING * H.diagonal().mean().clamp(min=1e-30))
    lower, failed = torch.linalg.cholesky_ex(damped)
    del damped
    if failed or not difference.sum().isfinite():  # only where the numbers themselves are out of range
        return weight
    aim = torch.empty_like(weight)
    first = len(weight) > len(H)  # D H⁻¹ is then less to solve for than W D H⁻¹
    step = _solved(difference, lower) if first else difference
    for begin in range(0, len(weight), ROWS):
        rows = slice(begin, begin + ROWS)
        way = torch.mm(weight[rows], step)
        aim[rows] = weight[rows] + SHARE * (way if first else _solved(way, lower))
    return aim


def _solved(rows: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
    """rows H⁻¹, with H = L Lᵀ."""
    return torch.cholesky_solve(rows.T, lower).T
