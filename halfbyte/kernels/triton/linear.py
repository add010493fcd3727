"""Products in Triton of few tokens with weights in tiles (kernels/gpu/tiles.py), or of float16.

Weights become numbers in registers, where the matrix units multiply them; or, with one token a program, plain products
are added up: for GPUs whose matrix units Triton has no way to (before Ampere). A product is cut into parts along its
inputs, so that there is work for the whole device; their sums, and what is done with them, are a second launch. With
one Cut for a weight a token's results are the same, bit for bit, whatever else is in the call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import triton
import triton.language as tl

from halfbyte.kernels.triton.tiles import load_scales, load_words, unpacked

if TYPE_CHECKING:
    from collections.abc import Mapping

Output = Literal["half", "added", "silu", "float"]
OUTPUTS: Mapping[Output, int] = {"half": 0, "added": 1, "silu": 2, "float": 3}
INPUTS = 64  # of a float16 weight, taken together
FINISHED = 256  # outputs that a program of `_finish` has


class Cut(NamedTuple):
    """How a product is cut, and of how many warps its programs are."""

    rows: int = 16  # tokens of a program: 16, or 1
    tiles: int = 2  # of 16 outputs that a program makes: 2 or more
    programs: int = 512  # that the inputs are cut into parts for
    warps: int = 1
    stages: int = 2  # of the units that are fetched ahead

    def parts(self, N: int, units: int) -> int:
        """Into which inputs in so many units are cut, for N outputs."""
        columns = -(-N // (16 * self.tiles))
        return max(1, min(units // 4, -(-self.programs // columns), 16))


DEFAULT = Cut()


@triton.jit  # type: ignore[untyped-decorator]
def _product(x, w, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """[ROWS, K] times [N, K] -> float32 [ROWS, N]."""
    if ROWS == 1:
        return tl.sum(x.to(tl.float32) * w.to(tl.float32), 1)[None, :]
    return tl.dot(x, tl.trans(w))


@triton.jit(do_not_specialize=["T"])  # type: ignore[untyped-decorator]
def _multiply_tiles(  # type: ignore[no-untyped-def]
    words, meta, x, parts, T, tiles, units, of_part,
    K: tl.constexpr, GROUP: tl.constexpr, TILES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Sums [parts, T, 16 tiles] float32 of x [T, K] with the units that each part has.

    words, meta: the same tiles, read as int32 and as float16.
    """
    STEPS: tl.constexpr = 2 if GROUP == 128 else 1
    GROUPS: tl.constexpr = 2 if GROUP == 32 else 1
    WIDTH: tl.constexpr = 32 if GROUP == 32 else 64 * STEPS  # columns multiplied together
    row = tl.program_id(0) * TILES * 8 + tl.arange(0, 8 * TILES)  # the tile's row g, and g + 8
    tile, g = row // 8, row % 8
    part = tl.program_id(1)
    token = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, WIDTH)
    # words of larger groups lie in the order step, t, h, j
    column = k if GROUP == 32 else k // 64 * 64 + k // 8 % 2 * 32 + k // 16 % 4 * 8 + k % 8
    upper = tl.zeros([ROWS, 8 * TILES], tl.float32)
    lower = tl.zeros([ROWS, 8 * TILES], tl.float32)
    inside = (token < T)[:, None]
    for unit in range(part * of_part, tl.minimum(units, (part + 1) * of_part)):
        for group in tl.static_range(GROUPS):
            at = x + token.to(tl.int64)[:, None] * K + (unit * (64 * STEPS) + group * 32 + column)[None, :]
            given = tl.load(at, mask=inside, other=0.0)
            w = load_words(words, tile, g, unit, units, tiles, group, GROUP)
            zero_upper, zero_lower, scale_upper, scale_lower = load_scales(
                meta, tile, g, unit, units, tiles, group, GROUP
            )
            u = (unpacked(w, 0) + zero_upper[:, None]).to(x.dtype.element_ty)
            v = (unpacked(w, 1) + zero_lower[:, None]).to(x.dtype.element_ty)
            upper += _product(given, u, ROWS) * scale_upper.to(tl.float32)[None, :]
            lower += _product(given, v, ROWS) * scale_lower.to(tl.float32)[None, :]
    to = parts + (part * T + token).to(tl.int64)[:, None] * (tiles * 16) + (tile * 16 + g)[None, :]
    there = inside & (tile < tiles)[None, :]
    tl.store(to, upper, mask=there)
    tl.store(to + 8, lower, mask=there)


@triton.jit(do_not_specialize=["T"])  # type: ignore[untyped-decorator]
def _multiply_floats(  # type: ignore[no-untyped-def]
    weight, x, parts, T, N, K, of_part, OUTPUTS: tl.constexpr, ROWS: tl.constexpr, INPUTS: tl.constexpr
):
    """Sums [parts, T, N] float32 of x [T, K] with weight [N, K], each part of so many times INPUTS columns."""
    n = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    part = tl.program_id(1)
    token = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    inside, there = (token < T)[:, None], (n < N)[:, None]
    sums = tl.zeros([ROWS, OUTPUTS], tl.float32)
    for step in range(part * of_part, tl.minimum(tl.cdiv(K, INPUTS), (part + 1) * of_part)):
        column = (step * INPUTS + tl.arange(0, INPUTS))[None, :]
        given = tl.load(x + token.to(tl.int64)[:, None] * K + column, mask=inside & (column < K), other=0.0)
        w = tl.load(weight + n.to(tl.int64)[:, None] * K + column, mask=there & (column < K), other=0.0)
        sums += _product(given, w, ROWS)
    to = parts + (part * T + token).to(tl.int64)[:, None] * N + n[None, :]
    tl.store(to, sums, mask=inside & (n < N)[None, :])


@triton.jit(do_not_specialize=["T"])  # type: ignore[untyped-decorator]
def _finish(  # type: ignore[no-untyped-def]
    parts, bias, out, T, N, width, count, BIAS: tl.constexpr, OUTPUT: tl.constexpr, BLOCK: tl.constexpr
):
    """The sum of parts [count, T, width], and what becomes of it; see `linear`."""
    token = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = n < N
    place = n // 8 * 16 + n % 8 if OUTPUT == 2 else n  # SiLU: N counts what comes out, of gate and up by eights
    y = tl.zeros([BLOCK], tl.float32)
    other = tl.zeros([BLOCK], tl.float32)
    for part in range(count):
        at = parts + (part * T + token) * width + place
        y += tl.load(at, mask=inside, other=0.0)
        if OUTPUT == 2:
            other += tl.load(at + 8, mask=inside, other=0.0)
    if BIAS:
        y += tl.load(bias + place, mask=inside, other=0.0)
        if OUTPUT == 2:
            other += tl.load(bias + place + 8, mask=inside, other=0.0)
    if OUTPUT == 2:
        y = y / (1.0 + tl.exp(-y)) * other
    to = out + token * N + n
    if OUTPUT == 1:
        y += tl.load(to, mask=inside, other=0.0)
    tl.store(to, y.to(out.dtype.element_ty), mask=inside)


def multiply_tiles(data: torch.Tensor, group: int, x: torch.Tensor, cut: Cut = DEFAULT) -> torch.Tensor:
    """Float32 [parts, T, 16 * tiles], to be summed, for x [T, K] float16 or bfloat16 and tiles [tiles, bytes]."""
    T, K = x.shape
    tiles, units = data.shape[0], K // max(group, 64)
    of_part = -(-units // cut.parts(tiles * 16, units))
    parts = torch.empty(-(-units // of_part), T, tiles * 16, dtype=torch.float32, device=x.device)
    _multiply_tiles[(-(-tiles // cut.tiles), len(parts), -(-T // cut.rows))](
        data.view(torch.int32), data.view(torch.float16), x, parts, T, tiles, units, of_part,
        K=K, GROUP=group, TILES=cut.tiles, ROWS=cut.rows, num_warps=cut.warps, num_stages=cut.stages,
    )  # fmt: skip
    return parts


def multiply_floats(weight: torch.Tensor, x: torch.Tensor, cut: Cut = DEFAULT) -> torch.Tensor:
    """Float32 [parts, T, N], to be summed, for x [T, K] and weight [N, K] of one type."""
    (T, K), N = x.shape, weight.shape[0]
    steps, outputs = -(-K // INPUTS), 16 * cut.tiles
    of_part = -(-steps // cut.parts(N, steps))
    parts = torch.empty(-(-steps // of_part), T, N, dtype=torch.float32, device=x.device)
    _multiply_floats[(-(-N // outputs), len(parts), -(-T // cut.rows))](
        weight, x, parts, T, N, K, of_part,
        OUTPUTS=outputs, ROWS=cut.rows, INPUTS=INPUTS, num_warps=cut.warps, num_stages=cut.stages,
    )  # fmt: skip
    return parts


def finish(parts: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor, output: Output) -> None:
    """out [T, N]: the sum of parts [count, T, N or more] and of bias [N], as `output` says.

    "added": to what is there. "silu": SiLU(gate) * up for sums [T, 2 N] of which gate and up lie in turns of eight.
    """
    count, T, width = parts.shape
    N = out.shape[1]
    _finish[(T, -(-N // FINISHED))](
        parts, parts if bias is None else bias, out, T, N, width, count,
        BIAS=bias is not None, OUTPUT=OUTPUTS[output], BLOCK=FINISHED, num_warps=4,
    )  # fmt: skip
