"""Reading weights in tiles (kernels/gpu/tiles.py says how they lie) in Triton, and making a matrix of them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

UNITS = 4  # of a program that makes a matrix


@triton.jit  # type: ignore[untyped-decorator]
def load_words(words, tile, g, unit, units, tiles, group, GROUP: tl.constexpr):  # type: ignore[no-untyped-def]
    """Int32 [rows, words]: of the rows g (and, in the same words, g + 8) of tiles, what a unit, or a group of 32, has.

    Words of a group of 32 come in the order of their columns, others as they lie: step, t, h, j.
    """
    STEPS: tl.constexpr = 2 if GROUP == 128 else 1
    UNIT: tl.constexpr = 128 * STEPS + (32 if GROUP == 32 else 16)
    if GROUP == 32:
        i = tl.arange(0, 8)
        place = i // 2 * 4 + group * 2 + i % 2
    else:
        i = tl.arange(0, 16 * STEPS)
        place = i // 16 * 128 + i % 16
    at = (tile.to(tl.int64) * units + unit)[:, None] * UNIT + g[:, None] * 16 + place[None, :]
    return tl.load(words + at, mask=(tile < tiles)[:, None], other=0)


@triton.jit  # type: ignore[untyped-decorator]
def load_scales(meta, tile, g, unit, units, tiles, group, GROUP: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of the rows g and g + 8: -(1024 + z) and -(64 + z), then their scales; float16 [rows] each."""
    STEPS: tl.constexpr = 2 if GROUP == 128 else 1
    UNIT: tl.constexpr = 256 * STEPS + (64 if GROUP == 32 else 32)
    at = meta + (tile.to(tl.int64) * units + unit) * UNIT + 256 * STEPS + group * 32 + g * 4
    there = tile < tiles
    scale_upper = tl.load(at, mask=there, other=0.0)
    zero_upper = tl.load(at + 1, mask=there, other=0.0)
    scale_lower = tl.load(at + 2, mask=there, other=0.0)
    zero_lower = tl.load(at + 3, mask=there, other=0.0)
    return zero_upper, zero_lower, scale_upper, scale_lower


@triton.jit  # type: ignore[untyped-decorator]
def _nibbles(w, LOWER: tl.constexpr):  # type: ignore[no-untyped-def]
    """Float16 1024 + q of the upper row, or 64 + q of the lower: their bits beside those of 1024, or of 64."""
    bits = (w & 0xF0) | 0x5400 if LOWER else (w & 0x0F) | 0x6400
    return bits.to(tl.int16).to(tl.float16, bitcast=True)


@triton.jit  # type: ignore[untyped-decorator]
def unpacked(w, LOWER: tl.constexpr):  # type: ignore[no-untyped-def]
    """Float16 [rows, 4 * words] for words [rows, words], four neighbouring columns a word; see `_nibbles`."""
    even = tl.join(_nibbles(w, LOWER), _nibbles(w >> 8, LOWER))
    odd = tl.join(_nibbles(w >> 16, LOWER), _nibbles(w >> 24, LOWER))
    return tl.reshape(tl.join(even, odd), [w.shape[0], 4 * w.shape[1]])


@triton.jit  # type: ignore[untyped-decorator]
def _dequantize(  # type: ignore[no-untyped-def]
    words, meta, out, N, K, units, tiles, GROUP: tl.constexpr, TILES: tl.constexpr, UNITS: tl.constexpr
):
    STEPS: tl.constexpr = 2 if GROUP == 128 else 1
    GROUPS: tl.constexpr = 2 if GROUP == 32 else 1
    WIDTH: tl.constexpr = 32 if GROUP == 32 else 64 * STEPS
    row = tl.program_id(0) * TILES * 8 + tl.arange(0, 8 * TILES)
    tile, g = row // 8, row % 8
    k = tl.arange(0, WIDTH)
    column = k if GROUP == 32 else k // 64 * 64 + k // 8 % 2 * 32 + k // 16 % 4 * 8 + k % 8
    n = (tile * 16 + g)[:, None]
    for unit in range(tl.program_id(1) * UNITS, tl.minimum(units, (tl.program_id(1) + 1) * UNITS)):
        for group in tl.static_range(GROUPS):
            w = load_words(words, tile, g, unit, units, tiles, group, GROUP)
            zero_upper, zero_lower, scale_upper, scale_lower = load_scales(
                meta, tile, g, unit, units, tiles, group, GROUP
            )
            to = out + n.to(tl.int64) * K + (unit * (64 * STEPS) + group * 32 + column)[None, :]
            upper = (unpacked(w, 0) + zero_upper[:, None]) * scale_upper[:, None]
            tl.store(to, upper.to(out.dtype.element_ty), mask=n < N)
            lower = (unpacked(w, 1) + zero_lower[:, None]) * scale_lower[:, None]
            tl.store(to + 8 * K, lower.to(out.dtype.element_ty), mask=n + 8 < N)


def dequantize_tiles(data: torch.Tensor, group: int, out: torch.Tensor) -> None:
    """Write the matrix [N, K] of tiles [tiles, bytes]: float16, each number rounded once, or that in bfloat16."""
    N, K = out.shape
    tiles, units = data.shape[0], K // max(group, 64)
    _dequantize[(-(-tiles // 2), -(-units // UNITS))](
        data.view(torch.int32), data.view(torch.float16), out, N, K, units, tiles,
        GROUP=group, TILES=2, UNITS=UNITS, num_warps=1,
    )  # fmt: skip
