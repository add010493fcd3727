"""GPTQ rounding (arXiv:2210.17323): the error of each rounded column is made up for by the columns still to come.

Columns are taken by falling activity, which serves the loudest first, yet nothing needs a g_idx: the groups' scales
and zero points are fixed beforehand, so a column may be rounded at any time to the grid of the group it lies in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from halfbyte.quantize.rounding import ASYMMETRIC_4, Levels, grid, stored_weight

if TYPE_CHECKING:
    from halfbyte.checkpoint.int4 import IntWeight

BLOCK = 128  # columns whose mutual corrections are made one by one; those on later columns wait for a product
DAMPING = 0.01  # of the mean diagonal of H, added to it
# Of each channel's own activity, added to it. Correlations seen in little text are weak evidence: with none of this,
# a model calibrated on one kind of text lost on others what it won on that one.
SHRINK = 1.0


class ColumnRounding:
    """Rounds weights [N, K] whose inputs have H [K, K] so that tr(dW H dWᵀ) stays small."""

    def __init__(self, H: torch.Tensor, shrink: float = SHRINK) -> None:
        self.order = H.diagonal().argsort(descending=True, stable=True)
        self.upper = inverse_factor(H, self.order, shrink)

    def round(
        self, weight: torch.Tensor, low: torch.Tensor, high: torch.Tensor, levels: Levels = ASYMMETRIC_4
    ) -> IntWeight:
        """Round a weight, or some of its rows, within group ranges [N, K / G]."""
        scale, zero = grid(low, high, levels)
        size = weight.shape[1] // scale.shape[1]
        columns = weight[:, self.order].T.contiguous()  # [K, N]: a column is contiguous
        group = self.order // size
        steps = torch.empty_like(columns)
        scales, zeros = scale.T.contiguous(), zero.T.contiguous()
        for begin in range(0, columns.shape[0], BLOCK):
            end = min(begin + BLOCK, columns.shape[0])
            run, own = columns[begin:end], self.upper[begin:end, begin:end]
            steps[begin:end], errors = _round_run(run, scales, zeros, group[begin:end], own, levels.top)
            columns[end:].addmm_(self.upper[begin:end, end:].T, errors, alpha=-1)
        back = torch.empty_like(weight)
        back[:, self.order] = steps.T
        q = back.view(*scale.shape, size) + zero[..., None]
        return stored_weight(q.flatten(1), scale, zero, levels.bits)


def _round_run(
    columns: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, group: torch.Tensor, upper: torch.Tensor, top: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Round columns [C, N], which are changed, one by one: their steps, their errors over the diagonal of `upper`."""
    if columns.is_cuda:
        from halfbyte.kernels.triton.gptq_columns import round_run  # noqa: PLC0415  triton comes with CUDA

        return round_run(columns, scales, zeros, group, upper, top)
    steps, errors = torch.empty_like(columns), torch.empty_like(columns)
    for i, g in enumerate(group.tolist()):
        s, z = scales[g], zeros[g]
        steps[i] = (columns[i] / s).round_().clamp_(-z, top - z)
        errors[i] = (columns[i] - steps[i] * s) / upper[i, i]
        columns[i + 1 :].addr_(upper[i, i + 1 :], errors[i], alpha=-1)
    return steps, errors


def inverse_factor(H: torch.Tensor, order: torch.Tensor, shrink: float) -> torch.Tensor:
    """The upper Cholesky factor of the inverse of H in that order, its diagonal raised as much as it takes to have one.

    In double precision, one matrix at a time: a 7B model's H of 11008 inputs takes 1 GB so.
    """
    own, damping = H.diagonal().double(), DAMPING
    mean = own.mean().clamp(min=1e-30)
    while True:
        damped = H[order][:, order].double()
        damped.diagonal().add_((shrink * own + damping * mean)[order])
        lower, failed = torch.linalg.cholesky_ex(damped)
        del damped
        if not failed:
            inverse = torch.cholesky_inverse(lower)
            del lower
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            del inverse
            if not failed:
                factor: torch.Tensor = upper.float()
                return factor
        damping *= 10
