"""GPTQ rounding (arXiv:2210.17323): the error of each rounded column is made up for by the columns still to come.

Columns are taken by falling activity, which serves the loudest first, yet nothing needs a g_idx: the groups' scales
and zero points are fixed beforehand, so a column may be rounded at any time to the grid of the group it lies in.
"""

from __future__ import annotations

import torch

from halfbyte.checkpoint.int4 import Int4Weight
from halfbyte.quantize.rounding import LEVELS, grid

BLOCK = 128  # columns whose mutual corrections are made one by one; those on later columns wait for a product
DAMPING = 0.01  # of the mean diagonal of H, added to it
# Of each channel's own activity, added to it. Correlations seen in little text are weak evidence: with none of this,
# a model calibrated on one kind of text lost on others what it won on that one.
SHRINK = 1.0


def round_columns(
    weight: torch.Tensor, low: torch.Tensor, high: torch.Tensor, H: torch.Tensor, shrink: float = SHRINK
) -> Int4Weight:
    """Round a weight [N, K] within group ranges [N, K / G] so that tr(dW H dWᵀ) stays small; H is [K, K]."""
    scale, zero = grid(low, high)
    size = weight.shape[1] // scale.shape[1]
    order = H.diagonal().argsort(descending=True, stable=True)
    columns = weight[:, order].T.contiguous()  # [K, N]: a column is contiguous
    group = order // size
    steps = torch.empty_like(columns)
    scales, zeros = scale.T.contiguous(), zero.T.contiguous()
    upper = inverse_factor(H[order][:, order], shrink)
    for begin in range(0, columns.shape[0], BLOCK):
        end = min(begin + BLOCK, columns.shape[0])
        errors = torch.empty_like(columns[begin:end])
        for i in range(begin, end):
            g = group[i]
            s, z = scales[g], zeros[g]
            steps[i] = (columns[i] / s).round_().clamp_(-z, LEVELS - z)
            errors[i - begin] = (columns[i] - steps[i] * s) / upper[i, i]
            columns[i + 1 : end].addr_(upper[i, i + 1 : end], errors[i - begin], alpha=-1)
        columns[end:].addmm_(upper[begin:end, end:].T, errors, alpha=-1)
    back = torch.empty_like(weight)
    back[:, order] = steps.T
    q = back.view(*scale.shape, size) + zero[..., None]
    return Int4Weight(q.flatten(1).to(torch.uint8), scale.half(), zero.to(torch.uint8))


def inverse_factor(H: torch.Tensor, shrink: float) -> torch.Tensor:
    """The upper Cholesky factor of the inverse of H, its diagonal raised as much as it takes to have one."""
    own, mean, damping = H.diagonal().double(), H.diagonal().mean().clamp(min=1e-30), DAMPING
    while True:
        damped = H.double()
        damped.diagonal().add_(shrink * own + damping * mean)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            upper: torch.Tensor
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed:
                return upper.to(H.dtype)
        damping *= 10
