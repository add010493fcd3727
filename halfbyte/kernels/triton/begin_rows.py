"""What a step of decoding begins with, in one launch: embeddings, and cosines and sines from a table.

In torch it is a dozen launches of a few microseconds each, as much time as a block of the network takes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

COLUMNS = 1024  # of an embedding, a program


@triton.jit  # type: ignore[untyped-decorator]
def _begin_rows(  # type: ignore[no-untyped-def]
    tokens, positions, embedding, cos_table, sin_table, embedded, cos, sin,
    WIDTH: tl.constexpr, D: tl.constexpr, COLUMNS: tl.constexpr, POWER: tl.constexpr,
):  # fmt: skip
    """A program: COLUMNS of a token's embedding; the first one the cosines and sines too."""
    row = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    token = tl.load(tokens + row)
    x = tl.load(embedding + token * WIDTH + column, mask=column < WIDTH, other=0.0)
    tl.store(embedded + row * WIDTH + column, x.to(tl.float32), mask=column < WIDTH)
    if tl.program_id(1) == 0:
        i = tl.arange(0, POWER)
        at = tl.load(positions + row) * D + i
        tl.store(cos + row * D + i, tl.load(cos_table + at, mask=i < D, other=0.0), mask=i < D)
        tl.store(sin + row * D + i, tl.load(sin_table + at, mask=i < D, other=0.0), mask=i < D)


def begin_rows(
    tokens: torch.Tensor, positions: torch.Tensor, embedding: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """tokens, positions: int64 [T]; embedding [V, K]; cos, sin: float32 [all positions, 1, d], of each position.

    Gives the embeddings [T, K], cosines and sines [T, 1, d], float32.
    """
    T, K, d = tokens.shape[0], embedding.shape[1], cos.shape[-1]
    embedded = torch.empty(T, K, dtype=torch.float32, device=embedding.device)
    rows = torch.empty(2, T, 1, d, dtype=torch.float32, device=embedding.device)
    _begin_rows[(T, -(-K // COLUMNS))](
        tokens, positions, embedding, cos, sin, embedded, rows[0], rows[1], WIDTH=K, D=d, COLUMNS=COLUMNS,
        POWER=triton.next_power_of_2(d), num_warps=4,
    )  # fmt: skip
    return embedded, rows[0], rows[1]
