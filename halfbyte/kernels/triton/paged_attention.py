"""Attention over paged keys and values: the newest tokens of each sequence over all it has (see reference).

Query heads that share a key-value head go as rows of one tile, and so do neighbouring tokens. A long context of a
decoding sequence is cut into pieces of a fixed length, whose results are put together afterwards: how many pieces
there are follows from the sequence alone, so that its result does not depend on its company.

With `fixed` a token's result depends on nothing but its sequence up to it: not on how many tokens of it, or of others,
are in the call. Every token then goes through tiles of one shape, and through its context piece by piece, one program
doing all of them in turn where there are many tokens; and no product is rounded together with a sum in one place and
apart from it in another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from halfbyte.kernels.int8_cache import floats_of
from halfbyte.kernels.triton.device import has_matrix_units
from halfbyte.kernels.triton.rope_store import NO_FUSION
from halfbyte.kernels.triton.tile_order import place_of

if TYPE_CHECKING:
    from halfbyte.kernels.interface import PagedBatch

PIECE = 256  # tokens of context
ROWS = 64  # of a tile, where a sequence has several new tokens
KEYS, FEWER_KEYS = 64, 32  # looked at together; where there is little shared memory and products are loops


@triton.jit  # type: ignore[untyped-decorator]
def _look(  # type: ignore[no-untyped-def]
    x, best, mass, sum_, first, end, k_cache, v_cache, k_scales, v_scales, table, kv_head, kv_heads, scale, window,
    position, BLOCK: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, N: tl.constexpr, INT8: tl.constexpr,
    ALL: tl.constexpr,
):  # fmt: skip
    """Take the tokens from first to end into the sums. ALL: every row may see all of them, and they are whole Ns.

    scale: times the logarithm of e to base 2; best is in that base too.
    """
    column = tl.arange(0, WIDTH)
    for begin in range(first, end, N):
        place = begin + tl.arange(0, N)
        if ALL:
            block = tl.load(table + place // BLOCK).to(tl.int64)
            mask = (column < D)[None, :] & (place >= 0)[:, None]
        else:
            there = place < end
            block = tl.load(table + place // BLOCK, mask=there, other=0).to(tl.int64)
            mask = there[:, None] & (column < D)[None, :]
        page = block * kv_heads + kv_head
        if INT8:
            page_size: tl.constexpr = BLOCK * (D + 4)
            at = page * page_size + place % BLOCK * D
            scale_at = (page * page_size + BLOCK * D) // 4 + place % BLOCK
            there = place < end
            k_scale = tl.load(k_scales + scale_at, mask=there, other=0.0)
            v_scale = tl.load(v_scales + scale_at, mask=there, other=0.0)
        else:
            at = (page * BLOCK + place % BLOCK) * D
        if ALL and WIDTH == D:
            k = tl.load(k_cache + at[:, None] + column[None, :]).to(x.dtype)
            v = tl.load(v_cache + at[:, None] + column[None, :])
        else:
            k = tl.load(k_cache + at[:, None] + column[None, :], mask=mask, other=0.0).to(x.dtype)
            v = tl.load(v_cache + at[:, None] + column[None, :], mask=mask, other=0.0)
        logits = tl.dot(x, tl.trans(k)) * scale
        if INT8:
            logits = logits * k_scale[None, :]
            v = v.to(tl.float32) * v_scale[:, None]
        v = v.to(x.dtype)
        if ALL:
            higher = tl.maximum(best, tl.max(logits, 1))
            safe = higher
        else:
            visible = (place < end)[None, :] & (place[None, :] <= position[:, None])
            if window > 0:
                visible = visible & (place[None, :] > position[:, None] - window)
            logits = tl.where(visible, logits, float("-inf"))
            higher = tl.maximum(best, tl.max(logits, 1))
            safe = tl.where(higher == float("-inf"), 0.0, higher)
        p = tl.exp2(logits - safe[:, None])
        fade = tl.exp2(best - safe)
        mass = mass * fade + tl.sum(p, 1)
        sum_ = tl.dot(p.to(v.dtype), v, sum_ * fade[:, None])
        best = higher
    return best, mass, sum_


@triton.jit  # type: ignore[untyped-decorator]
def _piece(  # type: ignore[no-untyped-def]
    x, first, end, seen_by_all, k_cache, v_cache, k_scales, v_scales, table, kv_head, kv_heads, scale, window, position,
    BLOCK: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, N: tl.constexpr, INT8: tl.constexpr,
):  # fmt: skip
    """Attention over the tokens from first to end: [M, WIDTH], and the logarithm [M] of what it weighs."""
    best = tl.full([M], float("-inf"), tl.float32)
    mass = tl.zeros([M], tl.float32)
    sum_ = tl.zeros([M, WIDTH], tl.float32)
    whole = tl.maximum(first, tl.minimum(end, seen_by_all) // N * N)
    if window > 0:
        first = tl.maximum(first, (seen_by_all - window) // N * N)
        whole = first
    in_twos = scale * 1.4426950408889634
    best, mass, sum_ = _look(
        x, best, mass, sum_, first, whole, k_cache, v_cache, k_scales, v_scales, table, kv_head, kv_heads, in_twos,
        window, position, BLOCK, D, WIDTH, N, INT8, True,
    )  # fmt: skip
    best, mass, sum_ = _look(
        x, best, mass, sum_, whole, end, k_cache, v_cache, k_scales, v_scales, table, kv_head, kv_heads, in_twos,
        window, position, BLOCK, D, WIDTH, N, INT8, False,
    )  # fmt: skip
    weight = tl.where(mass > 0, (best + tl.log2(tl.where(mass > 0, mass, 1.0))) * 0.6931471805599453, float("-inf"))
    return sum_ / tl.where(mass > 0, mass, 1.0)[:, None], weight


@triton.jit  # type: ignore[untyped-decorator]
def _take_in(best, mass, weight):  # type: ignore[no-untyped-def]
    """The new best and mass, and the factors for what is there and for a piece of that weight's logarithm."""
    higher = tl.maximum(best, weight)
    safe = tl.where(higher == float("-inf"), 0.0, higher)
    fade = tl.exp(best - safe)
    share = tl.exp(weight - safe)
    return higher, mass * fade + share, fade, share


# Numbers that change from pass to pass must not lead to another compilation because they are 1, or a multiple of 16.
@triton.jit(do_not_specialize=["tiles", "first_sequence", "table_width", "tokens"])  # type: ignore[untyped-decorator]
def _attend(  # type: ignore[no-untyped-def]
    q, k_cache, v_cache, k_scales, v_scales, out, weights, tables, query_start, context_lens,
    tiles, first_sequence, heads, kv_heads, table_width, scale, window, tokens,
    BLOCK: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr, M: tl.constexpr,
    N: tl.constexpr, LENGTH: tl.constexpr, PIECES: tl.constexpr, TILED: tl.constexpr, ONLY: tl.constexpr,
    INT8: tl.constexpr, FIXED: tl.constexpr,
):  # fmt: skip
    """out: float16 [T, H, D]; or, with several pieces, float32 [PIECES, T, H, D] with `weights` [PIECES, T, H].

    ONLY: 1 sequences with one new token, 2 all others, 0 all. FIXED: one program goes through pieces in turn.
    """
    sequence = first_sequence + tl.program_id(0) // tiles
    tile = tiles - 1 - tl.program_id(0) % tiles  # the longest ones first
    kv_head = tl.program_id(1)
    piece = tl.program_id(2)
    start = tl.load(query_start + sequence)
    count = tl.load(query_start + sequence + 1) - start
    context = tl.load(context_lens + sequence)
    per_tile: tl.constexpr = M // GROUP
    if (tile * per_tile < count) & ((ONLY == 0) | ((ONLY == 1) == (count == 1))):
        row = tl.arange(0, M)
        token = tile * per_tile + row // GROUP
        head = kv_head * GROUP + row % GROUP
        is_row = (row < per_tile * GROUP) & (token < count)
        position = context - count + token
        column = tl.arange(0, WIDTH)
        q_at = ((start + token) * heads + head)[:, None] * D + column[None, :]
        x = tl.load(q + q_at, mask=is_row[:, None] & (column < D)[None, :], other=0.0)
        seen_by_all = context - count + tile * per_tile + 1  # tokens that the tile's first row sees
        end = tl.minimum(context, seen_by_all - 1 + per_tile)
        table = tables + sequence * table_width
        if FIXED and PIECES == 1:
            best = tl.full([M], float("-inf"), tl.float32)
            mass = tl.zeros([M], tl.float32)
            result = tl.zeros([M, WIDTH], tl.float32)
            begin = 0
            if window > 0:
                begin = tl.maximum(begin, (seen_by_all - window) // LENGTH * LENGTH)
            for first in range(begin, end, LENGTH):
                part, weight = _piece(
                    x, first, tl.minimum(end, first + LENGTH), seen_by_all, k_cache, v_cache, k_scales, v_scales, table,
                    kv_head, kv_heads, scale, window, position, BLOCK, D, WIDTH, M, N, INT8,
                )  # fmt: skip
                best, mass, fade, share = _take_in(best, mass, weight)
                result = result * fade[:, None] + share[:, None] * part
            result = result / tl.where(mass > 0, mass, 1.0)[:, None]
            weight = best
        else:
            first = piece * LENGTH
            if PIECES > 1:
                end = tl.minimum(end, first + LENGTH)
            result, weight = _piece(
                x, first, end, seen_by_all, k_cache, v_cache, k_scales, v_scales, table, kv_head, kv_heads, scale,
                window, position, BLOCK, D, WIDTH, M, N, INT8,
            )  # fmt: skip
        if PIECES > 1:
            to = ((piece * tokens + start + token) * heads + head).to(tl.int64)
            tl.store(weights + to, weight, mask=is_row)
        else:
            to = ((start + token) * heads + head).to(tl.int64)
        mask = is_row[:, None] & (column < D)[None, :]
        tl.store(
            out + to[:, None] * D + place_of(column, TILED and PIECES == 1)[None, :],
            result.to(out.dtype.element_ty),
            mask=mask,
        )


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def _put_together(  # type: ignore[no-untyped-def]
    parts, weights, out, rows, D: tl.constexpr, WIDTH: tl.constexpr, PIECES: tl.constexpr, TILED: tl.constexpr
):
    """parts: [PIECES, rows, D] of weights exp([PIECES, rows]) -> [rows, D]."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    best = float("-inf")
    mass = 0.0
    sum_ = tl.zeros([WIDTH], tl.float32)
    for piece in range(PIECES):
        weight = tl.load(weights + piece * rows + row)
        part = tl.load(parts + (piece * rows + row) * D + column, mask=column < D, other=0.0)
        best, mass, fade, share = _take_in(best, mass, weight)
        sum_ = sum_ * fade + share * part
    result = sum_ / tl.where(mass > 0, mass, 1.0)
    tl.store(out + row * D + place_of(column, TILED), result.to(out.dtype.element_ty), mask=column < D)


def put_together(
    parts: torch.Tensor, weights: torch.Tensor, out: torch.Tensor, *, tiled: bool, fixed: bool = False
) -> None:
    """Results [pieces, T, H, d] of pieces of the context, whose weights are exp([pieces, T, H]), as one [T, H, d]."""
    pieces, T, heads, d = parts.shape
    width = max(16, triton.next_power_of_2(d))
    _put_together[(T * heads,)](
        parts, weights, out, T * heads, D=d, WIDTH=width, PIECES=pieces, TILED=tiled, num_warps=1,
        **(NO_FUSION if fixed else {}),
    )  # fmt: skip


def pieces_of(batch: PagedBatch) -> int:
    """Into how many pieces the longest context is cut: a power of two, so that few kinds of launches are needed."""
    if batch.max_query > 1:
        return 1
    return 1 << (max(1, -(-batch.max_context // PIECE)) - 1).bit_length()


def paged_attention(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, batch: PagedBatch, scale: float, window: int | None,
    out: torch.Tensor, pieces: int | None = None, *, tiled: bool = False, first: int = 0, fixed: bool = False,
) -> torch.Tensor:  # fmt: skip
    """q, out: float16 [T, H, d], contiguous; caches: [blocks, Hkv, block size, d] in which the new tokens lie already.

    pieces: as `pieces_of` gives them for the longest context that there may be. tiled: out has its columns in the order
    of tiles (kernels/gpu/wide.py); d is a multiple of 32. first: of the sequences to be attended. fixed: see above.
    """
    T, heads, d = q.shape
    _, kv_heads, block, _ = k_cache.shape
    group = heads // kv_heads
    pieces = pieces_of(batch) if pieces is None else pieces
    sequences = len(batch.context_lens) - first
    parts, weights = out, out
    if pieces > 1:
        parts = torch.empty(pieces, T, heads, d, dtype=torch.float32, device=q.device)
        weights = torch.empty(pieces, T, heads, dtype=torch.float32, device=q.device)
    int8 = k_cache.dtype == torch.int8
    k_scales, v_scales = (floats_of(k_cache), floats_of(v_cache)) if int8 else (q, q)
    keys = KEYS if has_matrix_units(q.device) else FEWER_KEYS
    width = max(16, triton.next_power_of_2(d))
    one = max(16, triton.next_power_of_2(group))  # rows of a tile for one new token
    several = max(ROWS, one)
    # A tile made for a chunk of a prompt would be almost empty for a sequence that is decoding beside it.
    if batch.max_query == 1 and not fixed:
        launches = [(0, one)]
    elif sequences == 1 or fixed:
        launches = [(0, several)]
    else:
        launches = [(1, one), (2, several)]
    for only, rows in launches:
        tiles = -(-batch.max_query // (rows // group)) if only != 1 else 1
        options: dict[str, Any] = {"num_warps": 8 if rows > ROWS or fixed else 4, "num_stages": 2}
        if fixed:
            options |= NO_FUSION
        _attend[(sequences * tiles, kv_heads, pieces)](
            q, k_cache, v_cache, k_scales, v_scales, parts, weights, batch.block_tables, batch.query_start,
            batch.context_lens, tiles, first, heads, kv_heads, batch.block_tables.stride(0), scale, window or 0, T,
            BLOCK=block, D=d, WIDTH=width, GROUP=group, M=rows, N=keys, LENGTH=PIECE, PIECES=pieces, TILED=tiled,
            ONLY=only, INT8=int8, FIXED=fixed, **options,
        )  # fmt: skip
    if pieces > 1:
        put_together(parts, weights, out, tiled=tiled)
    return out
