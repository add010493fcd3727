"""Between the product that makes q, k and v and their attention: norm of heads, rotation, and the way to the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from halfbyte.kernels.int8_cache import TOP, floats_of
from halfbyte.kernels.triton.tile_order import place_of

if TYPE_CHECKING:
    from collections.abc import Mapping

NEAREST = tl.constexpr(12582912.0)  # 1.5 * 2**23: adding it rounds a small float to the nearest whole number
MANY = 512  # tokens, over which a program has several heads
NO_FUSION: Mapping[str, bool] = {"enable_fp_fusion": False}


@triton.jit  # type: ignore[untyped-decorator]
def _store_int8(  # type: ignore[no-untyped-def]
    x, cache, scales, page, place, column, rows, D: tl.constexpr, BLOCK: tl.constexpr, TOP: tl.constexpr
):
    """Those rows of x [heads, width] as int8 with their scales, at a place of pages [heads, 1]; see int8_cache.py."""
    scale = tl.max(tl.abs(x), 1) / TOP
    scale += tl.sum(x, 1) * 0.0  # what is not finite must not be lost
    steps = x * tl.where(scale > 0, 1.0 / tl.where(scale > 0, scale, 1.0), 0.0)[:, None]
    whole = (tl.minimum(tl.maximum(steps, -TOP), TOP) + NEAREST) - NEAREST
    size: tl.constexpr = BLOCK * D + BLOCK * 4
    tl.store(cache + page * size + place * D + column, whole.to(tl.int8), mask=rows & (column < D))
    tl.store(scales + (page * size + BLOCK * D) // 4 + place, scale[:, None], mask=rows)


@triton.jit(do_not_specialize=["fresh_start"])  # type: ignore[untyped-decorator]
def _rope_store(  # type: ignore[no-untyped-def]
    qkv, cos, sin, q_out, k_cache, v_cache, k_scales, v_scales, slots, q_norm, k_norm, heads, kv_heads, eps,
    k_fresh, v_fresh, fresh_start,
    BLOCK: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, NORMS: tl.constexpr, SOME: tl.constexpr,
    INT8: tl.constexpr, TOP: tl.constexpr, FRESH: tl.constexpr, TILED: tl.constexpr,
):  # fmt: skip
    """A program: one token, SOME of its heads."""
    token = tl.program_id(0)
    head = (tl.program_id(1) * SOME + tl.arange(0, SOME))[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    all_heads = heads + 2 * kv_heads
    inside = (column < D) & (head < all_heads)
    turned = (column + D // 2) % D
    base = qkv + (token * all_heads + head).to(tl.int64) * D
    plain = tl.load(base + column, mask=inside, other=0.0).to(tl.float32)
    slot = tl.load(slots + token)
    other = tl.load(base + turned, mask=inside, other=0.0).to(tl.float32)
    x = plain
    if NORMS:
        r = 1.0 / tl.sqrt(tl.sum(x * x, 1) / D + eps)[:, None]
        is_query = head < heads
        norm = tl.load(q_norm + column + head * 0, mask=inside & is_query, other=0.0)
        norm += tl.load(k_norm + column + head * 0, mask=inside & (head >= heads), other=0.0)
        x = x * r * norm
        norm = tl.load(q_norm + turned + head * 0, mask=inside & is_query, other=0.0)
        norm += tl.load(k_norm + turned + head * 0, mask=inside & (head >= heads), other=0.0)
        other = other * r * norm
    c = tl.load(cos + token * D + column, mask=column < D, other=0.0)
    s = tl.load(sin + token * D + column, mask=column < D, other=0.0)
    x = x * c + other * s
    to = q_out + (token * heads + head).to(tl.int64) * D
    tl.store(to + column, x.to(q_out.dtype.element_ty), mask=inside & (head < heads))
    is_key = head < heads + kv_heads
    kv_head = tl.where(is_key, head - heads, head - heads - kv_heads)
    as_key = (head >= heads) & is_key
    as_value = (head >= heads + kv_heads) & (head < all_heads)
    if FRESH:
        at = ((token - fresh_start) * kv_heads + kv_head).to(tl.int64) * D
        is_fresh = inside & (head * 0 + token >= fresh_start)
        tl.store(k_fresh + at + column, x.to(k_fresh.dtype.element_ty), mask=as_key & is_fresh)
        place = at + place_of(column, TILED)
        tl.store(v_fresh + place, plain.to(v_fresh.dtype.element_ty), mask=as_value & is_fresh)
    if slot >= 0:
        page = slot // BLOCK * kv_heads + kv_head
        if INT8:
            _store_int8(x, k_cache, k_scales, page, slot % BLOCK, column, as_key, D, BLOCK, TOP)
            _store_int8(plain, v_cache, v_scales, page, slot % BLOCK, column, as_value, D, BLOCK, TOP)
        else:
            at = (page * BLOCK + slot % BLOCK) * D
            tl.store(k_cache + at + column, x.to(k_cache.dtype.element_ty), mask=as_key & inside)
            tl.store(v_cache + at + column, plain.to(v_cache.dtype.element_ty), mask=as_value & inside)


def rope_store(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, q_out: torch.Tensor, k_cache: torch.Tensor,
    v_cache: torch.Tensor, slots: torch.Tensor, norms: tuple[torch.Tensor, torch.Tensor] | None, eps: float,
    *, fixed: bool = False, fresh: tuple[torch.Tensor, torch.Tensor, int] | None = None, tiled: bool = False,
) -> None:  # fmt: skip
    """qkv: [T, (H + 2 Hkv) d]; cos, sin: float32 [T, 1, d]; q_out: [T, H, d]; slots: [T], < 0: do not keep.

    fixed: a token's results must not depend on T. fresh: where keys and values of the tokens from a row on are left
    too, [T, Hkv, d]; tiled: the values' columns there in the order of tiles (kernels/gpu/wide.py).
    """
    T, heads, d = q_out.shape
    _, kv_heads, block, _ = k_cache.shape
    q_norm, k_norm = norms or (cos, cos)
    int8 = k_cache.dtype == torch.int8
    k_scales, v_scales = (floats_of(k_cache), floats_of(v_cache)) if int8 else (cos, cos)
    k_fresh, v_fresh, start = fresh or (cos, cos, 0)
    some = 8 if fixed or T > MANY else 1  # heads of a program
    _rope_store[(T, -(-(heads + 2 * kv_heads) // some))](
        qkv, cos, sin, q_out, k_cache, v_cache, k_scales, v_scales, slots, q_norm, k_norm, heads, kv_heads, eps,
        BLOCK=block, D=d, WIDTH=triton.next_power_of_2(d), NORMS=norms is not None, SOME=some, INT8=int8, TOP=TOP,
        k_fresh=k_fresh, v_fresh=v_fresh, fresh_start=start, FRESH=fresh is not None, TILED=tiled,
        num_warps=4 if some > 1 else 1, **(NO_FUSION if fixed else {}),
    )  # fmt: skip
