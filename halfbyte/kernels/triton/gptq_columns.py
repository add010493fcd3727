"""GPTQ's inner loop (arXiv:2210.17323): a run of columns rounded one after the other, in one launch.

In torch each column is half a dozen launches of a few microseconds of work: 700,000 columns of a 7B model are then
half a minute of waiting for launches.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

ROWS = 32  # of the weight, a program: each thread keeps its part of all columns in registers
NEAREST = tl.constexpr(12582912.0)  # 1.5 * 2**23: adding it rounds a small float to the nearest whole number


@triton.jit  # type: ignore[untyped-decorator]
def _columns(  # type: ignore[no-untyped-def]
    columns, steps, errors, scales, zeros, group, upper, n,
    LEVELS: tl.constexpr, COUNT: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < n
    index = tl.arange(0, BLOCK)
    tile = tl.load(
        columns + index[:, None] * n + rows[None, :], mask=(index < COUNT)[:, None] & inside[None, :], other=0.0
    )
    for i in range(COUNT):
        g = tl.load(group + i)
        s = tl.load(scales + g * n + rows, mask=inside, other=1.0)
        z = tl.load(zeros + g * n + rows, mask=inside, other=0.0)
        column = tl.sum(tl.where(index[:, None] == i, tile, 0.0), axis=0)
        clamped = tl.minimum(tl.maximum(column / s, -z), LEVELS - z)
        q = (clamped + NEAREST) - NEAREST
        factors = tl.load(upper + i * COUNT + index, mask=(index < COUNT) & (index >= i), other=0.0)
        own = tl.sum(tl.where(index == i, factors, 0.0), axis=0)
        error = (column - q * s) / own
        tl.store(steps + i * n + rows, q, mask=inside)
        tl.store(errors + i * n + rows, error, mask=inside)
        tile -= tl.where(index > i, factors, 0.0)[:, None] * error[None, :]


def round_run(
    columns: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, group: torch.Tensor, upper: torch.Tensor, top: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Round the columns [C, N] in order, each one's error made up for by those after it.

    scales, zeros: [groups, N] float32; group: int64 [C], each column's; upper: [C, C], the run's part of the factor of
    H⁻¹; top: the largest q. Returns the steps q - z [C, N] and the errors over upper's diagonal [C, N].
    """
    count, n = columns.shape
    steps, errors = torch.empty_like(columns), torch.empty_like(columns)
    _columns[(triton.cdiv(n, ROWS),)](
        columns, steps, errors, scales, zeros, group.contiguous(), upper.contiguous(), n,
        top, count, triton.next_power_of_2(count), ROWS, num_warps=1,
    )  # fmt: skip
    return steps, errors
