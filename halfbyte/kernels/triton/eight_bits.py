"""Products of many tokens with weights in tiles (kernels/gpu/tiles.py), activations rounded to 8 bits (W4A8).

A token's activations become whole numbers to 127 times a scale; q - z are whole numbers anyway. Matrix units multiply
the two at twice the rate of float16; sums of a group are exact, and are scaled in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from halfbyte.kernels.int8_cache import TOP
from halfbyte.kernels.triton.linear import OUTPUTS
from halfbyte.kernels.triton.rope_store import NEAREST
from halfbyte.kernels.triton.tiles import load_scales, load_words, unpacked

if TYPE_CHECKING:
    from halfbyte.kernels.triton.linear import Output

TILES, ROWS, WARPS = 8, 128, 8  # of a program: tiles of 16 outputs, tokens, warps


@triton.jit  # type: ignore[untyped-decorator]
def _round(x, q, scales, K, WIDTH: tl.constexpr, TOP: tl.constexpr):  # type: ignore[no-untyped-def]
    """A program: one row of x [T, K]."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    there = column < K
    given = tl.load(x + row * K + column, mask=there, other=0.0).to(tl.float32)
    scale = tl.max(tl.abs(given), 0) / TOP
    scale += tl.sum(given, 0) * 0.0  # what is not finite must not be lost
    steps = given * tl.where(scale > 0, 1.0 / tl.where(scale > 0, scale, 1.0), 0.0)
    whole = (tl.minimum(tl.maximum(steps, -TOP), TOP) + NEAREST) - NEAREST
    tl.store(q + row * K + column, whole.to(tl.int8), mask=there)
    tl.store(scales + row, scale)


@triton.jit(do_not_specialize=["T"])  # type: ignore[untyped-decorator]
def _multiply(  # type: ignore[no-untyped-def]
    words, meta, x, scales, bias, out, T, N, tiles, units, K: tl.constexpr, GROUP: tl.constexpr, BIAS: tl.constexpr,
    OUTPUT: tl.constexpr, TILES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """x: int8 [T, K]; scales: float32 [T]; out: see linear.finish. A program: TILES tiles, ROWS tokens."""
    STEPS: tl.constexpr = 2 if GROUP == 128 else 1
    GROUPS: tl.constexpr = 2 if GROUP == 32 else 1
    WIDTH: tl.constexpr = 32 if GROUP == 32 else 64 * STEPS
    row = tl.program_id(0) * TILES * 8 + tl.arange(0, 8 * TILES)
    tile, g = row // 8, row % 8
    token = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, WIDTH)
    # words of larger groups lie in the order step, t, h, j
    column = k if GROUP == 32 else k // 64 * 64 + k // 8 % 2 * 32 + k // 16 % 4 * 8 + k % 8
    upper = tl.zeros([8 * TILES, ROWS], tl.float32)
    lower = tl.zeros([8 * TILES, ROWS], tl.float32)
    inside = (token < T)[None, :]
    for unit in range(units):
        for group in tl.static_range(GROUPS):
            at = x + token.to(tl.int64)[None, :] * K + (unit * (64 * STEPS) + group * 32 + column)[:, None]
            given = tl.load(at, mask=inside, other=0)
            w = load_words(words, tile, g, unit, units, tiles, group, GROUP)
            zero_upper, zero_lower, scale_upper, scale_lower = load_scales(
                meta, tile, g, unit, units, tiles, group, GROUP
            )
            u = (unpacked(w, 0) + zero_upper[:, None]).to(tl.int8)
            upper += tl.dot(u, given, out_dtype=tl.int32).to(tl.float32) * scale_upper.to(tl.float32)[:, None]
            v = (unpacked(w, 1) + zero_lower[:, None]).to(tl.int8)
            lower += tl.dot(v, given, out_dtype=tl.int32).to(tl.float32) * scale_lower.to(tl.float32)[:, None]
    scale = tl.load(scales + token, mask=token < T, other=0.0)[None, :]
    n = tile * 16 + g
    if BIAS:
        bias_upper = tl.load(bias + n, mask=n < N, other=0.0)[:, None]
        bias_lower = tl.load(bias + n + 8, mask=n + 8 < N, other=0.0)[:, None]
        upper, lower = upper * scale + bias_upper, lower * scale + bias_lower
    else:
        upper, lower = upper * scale, lower * scale
    if OUTPUT == 2:  # gate above, up below
        to = out + token.to(tl.int64)[None, :] * (N // 2) + (tile * 8 + g)[:, None]
        y = upper / (1.0 + tl.exp(-upper)) * lower
        tl.store(to, y.to(out.dtype.element_ty), mask=inside & (n + 8 < N)[:, None])
    else:
        to = out + token.to(tl.int64)[None, :] * N + n[:, None]
        first, second = inside & (n < N)[:, None], inside & (n + 8 < N)[:, None]
        if OUTPUT == 1:
            upper += tl.load(to, mask=first, other=0.0)
            lower += tl.load(to + 8, mask=second, other=0.0)
        tl.store(to, upper.to(out.dtype.element_ty), mask=first)
        tl.store(to + 8, lower.to(out.dtype.element_ty), mask=second)


def rounded_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[T, K] as int8 of that shape and scales float32 [T], see reference.to_int8."""
    T, K = x.shape
    q, scales = torch.empty_like(x, dtype=torch.int8), torch.empty(T, dtype=torch.float32, device=x.device)
    _round[(T,)](x, q, scales, K, WIDTH=triton.next_power_of_2(K), TOP=TOP, num_warps=8)
    return q, scales


def multiply_eight(
    data: torch.Tensor, group: int, rounded: tuple[torch.Tensor, torch.Tensor], bias: torch.Tensor | None,
    out: torch.Tensor, N: int, output: Output,
) -> None:  # fmt: skip
    """Tiles [tiles, bytes] of a weight [N, K] times `rounded_rows` of x [T, K]; out and output: see linear.finish."""
    q, scales = rounded
    (T, K), tiles = q.shape, data.shape[0]
    _multiply[(-(-tiles // TILES), -(-T // ROWS))](
        data.view(torch.int32), data.view(torch.float16), q, scales, scales if bias is None else bias, out, T, N, tiles,
        K // max(group, 64), K=K, GROUP=group, BIAS=bias is not None, OUTPUT=OUTPUTS[output], TILES=TILES, ROWS=ROWS,
        num_warps=WARPS, num_stages=3,
    )  # fmt: skip
