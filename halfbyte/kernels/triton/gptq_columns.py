"""GPTQ's inner loop (arXiv:2210.17323): a run of columns rounded one after the other, in one launch.

In torch each column is half a dozen launches of a few microseconds of work: 700,000 columns of a 7B model are then
half a minute of waiting for launches.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

ROWS = 32  # of the weight, a program
PART = 32  # columns that are held in registers while they are rounded; what they do to later ones is a product
NEAREST = tl.constexpr(12582912.0)  # 1.5 * 2**23: adding it rounds a small float to the nearest whole number


@triton.jit  # type: ignore[untyped-decorator]
def _columns(  # type: ignore[no-untyped-def]
    columns, steps, scales, zeros, upper, n,
    LEVELS: tl.constexpr, COUNT: tl.constexpr, PART: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < n
    index = tl.arange(0, PART)
    for begin in range(0, COUNT, PART):
        own = begin + index
        here = own[:, None] * n + rows[None, :]
        there = (own < COUNT)[:, None] & inside[None, :]
        tile = tl.load(columns + here, mask=there, other=0.0)
        errors = tl.zeros((PART, ROWS), tl.float32)
        s = tl.load(scales + begin * n + rows, mask=inside, other=1.0)
        z = tl.load(zeros + begin * n + rows, mask=inside, other=0.0)
        factors = tl.load(upper + begin * COUNT + own, mask=own < COUNT, other=0.0)
        for i in range(min(PART, COUNT - begin)):
            # the next column's numbers are on their way while this one is worked on
            following = tl.minimum(begin + i + 1, COUNT - 1)
            next_s = tl.load(scales + following * n + rows, mask=inside, other=1.0)
            next_z = tl.load(zeros + following * n + rows, mask=inside, other=0.0)
            next_factors = tl.load(upper + following * COUNT + own, mask=own < COUNT, other=0.0)
            column = tl.sum(tl.where(index[:, None] == i, tile, 0.0), axis=0)
            clamped = tl.minimum(tl.maximum(column / s, -z), LEVELS - z)
            q = (clamped + NEAREST) - NEAREST
            diagonal = tl.sum(tl.where(index == i, factors, 0.0), axis=0)
            error = (column - q * s) / diagonal
            tl.store(steps + (begin + i) * n + rows, q, mask=inside)
            tile -= tl.where(index > i, factors, 0.0)[:, None] * error[None, :]
            errors = tl.where(index[:, None] == i, error[None, :], errors)
            s, z, factors = next_s, next_z, next_factors
        for later in range(begin + PART, COUNT, PART):
            others = later + index
            place = columns + others[:, None] * n + rows[None, :]
            valid = (others < COUNT)[:, None] & inside[None, :]
            weights = tl.load(
                upper + own[None, :] * COUNT + others[:, None],
                mask=(own < COUNT)[None, :] & (others < COUNT)[:, None], other=0.0,
            )  # fmt: skip
            change = tl.dot(weights, errors, input_precision="ieee")
            tl.store(place, tl.load(place, mask=valid, other=0.0) - change, mask=valid)
        tl.debug_barrier()  # what one thread has stored another may load


def round_run(
    columns: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, upper: torch.Tensor, top: int
) -> torch.Tensor:
    """Round the columns [C, N], which are changed, in order, each one's error made up for by those after it.

    scales, zeros: [C, N] float32, each column's; upper: [C, C], the run's part of the factor of H⁻¹; top: the largest
    q. Returns the steps q - z [C, N].
    """
    count, n = columns.shape
    steps = torch.empty_like(columns)
    _columns[(triton.cdiv(n, ROWS),)](
        columns, steps, scales.contiguous(), zeros.contiguous(), upper.contiguous(), n,
        top, count, PART, ROWS, num_warps=1,
    )  # fmt: skip
    return steps
