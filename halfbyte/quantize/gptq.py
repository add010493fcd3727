"""GPTQ rounding (arXiv:2210.17323): the error of each rounded column is made up for by the columns still to come.

Columns are taken by falling activity, which serves the loudest first, yet nothing needs a g_idx: the groups' scales
and zero points are fixed beforehand, so a column may be rounded at any time to the grid of the group it lies in.

With H = L Lᵀ, the columns in the reverse of that order, the error d H dᵀ of a row is the sum over columns i of
(sum over j >= i of d_j L[j, i])². So a column is best rounded from w_i - sum over j > i of d_j L[j, i] / L[i, i], d_j
being the errors of those before it: the same numbers as GPTQ's with the inverse of H (arXiv:2507.18553), from one
Cholesky factor, a quarter of the work, and well enough conditioned for float32. Only within short runs of columns is
the inverse used, so that what remains is as GPTQ has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from halfbyte.quantize.rounding import ASYMMETRIC_4, Levels, grid, stored_weight

if TYPE_CHECKING:
    from halfbyte.checkpoint.int4 import IntWeight

BLOCK = 128  # columns that are rounded in a run: corrections from those before it come by one product
PART = 32  # columns of a run that are corrected one by one, on a CPU
DAMPING = 0.01  # of the mean diagonal of H, added to it
# Of each channel's own activity, added to it. Correlations seen in little text are weak evidence: with none of this,
# a model calibrated on one kind of text lost on others what it won on that one.
SHRINK = 1.0


class ColumnRounding:
    """Rounds weights [N, K] whose inputs have H [K, K] so that tr(dW H dWᵀ) stays small."""

    def __init__(self, H: torch.Tensor, shrink: float | None = None) -> None:
        self.order = H.diagonal().argsort(stable=True)  # from the last to be rounded to the first
        self.lower = factor(H, self.order, SHRINK if shrink is None else shrink)
        self.runs = inverse_runs(self.lower)

    def round(
        self, weight: torch.Tensor, low: torch.Tensor, high: torch.Tensor, levels: Levels = ASYMMETRIC_4
    ) -> IntWeight:
        """Round a weight, or some of its rows, within group ranges [N, K / G]."""
        scale, zero = grid(low, high, levels)
        size = weight.shape[1] // scale.shape[1]
        columns = weight.T[self.order]  # [K, N]: a column is contiguous
        group = self.order // size
        scales, zeros = scale.T.contiguous(), zero.T.contiguous()
        steps = torch.empty_like(columns)
        for begin in range((columns.shape[0] - 1) // BLOCK * BLOCK, -1, -BLOCK):
            end = min(begin + BLOCK, columns.shape[0])
            run, own = columns[begin:end], group[begin:end].flip(0)
            inverse = self.runs[begin // BLOCK, : end - begin, : end - begin]
            before = torch.mm(self.lower[end:, begin:end].T, columns[end:]).flip(0)
            wanted = torch.addmm(run.flip(0), inverse.T, before, alpha=-1)
            s = scales[own]
            rounded = _round_run(wanted, s, zeros[own], inverse, levels.top)
            steps[begin:end] = rounded.flip(0)
            columns[begin:end] = (rounded * s).flip(0).sub_(run)  # from now on what it is off by
        back = torch.empty_like(weight)
        back[:, self.order] = steps.T
        q = back.view(*scale.shape, size) + zero[..., None]
        return stored_weight(q.flatten(1), scale, zero, levels.bits)


def _round_run(
    columns: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, upper: torch.Tensor, top: int
) -> torch.Tensor:
    """Round columns [C, N], which are changed, one by one: their steps q - z. upper: see `inverse_runs`.

    scales, zeros: [C, N].
    """
    if columns.is_cuda:
        from halfbyte.kernels.triton.gptq_columns import round_run  # noqa: PLC0415  triton comes with CUDA

        return round_run(columns, scales, zeros, upper, top)
    steps, least, most = torch.empty_like(columns), -zeros, top - zeros
    diagonal = upper.diagonal().tolist()
    for begin in range(0, len(columns), PART):
        end = min(begin + PART, len(columns))
        errors = torch.empty_like(columns[begin:end])
        for i in range(begin, end):
            step, error = steps[i], errors[i - begin]
            torch.div(columns[i], scales[i], out=step).round_()
            torch.clamp(step, least[i], most[i], out=step)
            torch.addcmul(columns[i], step, scales[i], value=-1, out=error).div_(diagonal[i])
            columns[i + 1 : end].addr_(upper[i, i + 1 : end], error, alpha=-1)
        columns[end:].addmm_(upper[begin:end, end:].T, errors, alpha=-1)
    return steps


def factor(H: torch.Tensor, order: torch.Tensor, shrink: float) -> torch.Tensor:
    """The lower Cholesky factor of H in that order, its diagonal raised by `shrink` times itself and as it takes."""
    own, damping = H.diagonal(), DAMPING
    mean = own.mean().clamp(min=1e-30)
    while True:
        damped = H[order[:, None], order]
        damped.diagonal().add_((shrink * own + damping * mean)[order])
        lower, failed = torch.linalg.cholesky_ex(damped)
        del damped
        if not failed:
            found: torch.Tensor = lower
            return found
        damping *= 10


def inverse_runs(lower: torch.Tensor) -> torch.Tensor:
    """For each run of columns [b, e) the inverse of R, with R Rᵀ that part of H, and R upper in the order of rounding.

    [runs, BLOCK, BLOCK]; what a last, shorter run leaves is that of the identity.
    """
    count = -(-lower.shape[0] // BLOCK)
    upper = torch.eye(BLOCK, device=lower.device).repeat(count, 1, 1)
    for i in range(count):
        own = lower[i * BLOCK : (i + 1) * BLOCK, i * BLOCK : (i + 1) * BLOCK]
        upper[i, : own.shape[0], : own.shape[0]] = own.flip(0, 1)
    inverse: torch.Tensor = torch.linalg.solve_triangular(upper, torch.eye(BLOCK, device=lower.device), upper=True)
    return inverse
