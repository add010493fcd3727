"""Between the product that makes q, k and v and their attention: norm of heads, rotation, and the way to the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

if TYPE_CHECKING:
    import torch


@triton.jit  # type: ignore[untyped-decorator]
def _rope_store(  # type: ignore[no-untyped-def]
    qkv, cos, sin, q_out, k_cache, v_cache, slots, q_norm, k_norm, heads, kv_heads, eps,
    BLOCK: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, NORMS: tl.constexpr, SOME: tl.constexpr,
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
    if slot >= 0:
        is_key = head < heads + kv_heads
        kv_head = tl.where(is_key, head - heads, head - heads - kv_heads)
        at = ((slot // BLOCK * kv_heads + kv_head) * BLOCK + slot % BLOCK) * D
        tl.store(k_cache + at + column, x.to(k_cache.dtype.element_ty), mask=inside & (head >= heads) & is_key)
        tl.store(v_cache + at + column, plain.to(v_cache.dtype.element_ty), mask=inside & (head >= heads + kv_heads))


def rope_store(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, q_out: torch.Tensor, k_cache: torch.Tensor,
    v_cache: torch.Tensor, slots: torch.Tensor, norms: tuple[torch.Tensor, torch.Tensor] | None, eps: float,
) -> None:  # fmt: skip
    """qkv: [T, (H + 2 Hkv) d]; cos, sin: float32 [T, 1, d]; q_out: [T, H, d]; slots: [T], < 0: do not keep."""
    T, heads, d = q_out.shape
    _, kv_heads, block, _ = k_cache.shape
    q_norm, k_norm = norms or (cos, cos)
    some = 8 if T > 512 else 1  # heads of a program
    _rope_store[(T, -(-(heads + 2 * kv_heads) // some))](
        qkv, cos, sin, q_out, k_cache, v_cache, slots, q_norm, k_norm, heads, kv_heads, eps,
        BLOCK=block, D=d, WIDTH=triton.next_power_of_2(d), NORMS=norms is not None, SOME=some,
        num_warps=4 if some > 1 else 1,
    )  # fmt: skip
