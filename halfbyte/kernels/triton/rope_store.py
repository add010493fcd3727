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
    BLOCK: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, NORMS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    head = tl.program_id(1)
    column = tl.arange(0, WIDTH)
    inside = column < D
    turned = (column + D // 2) % D
    base = qkv + (token * (heads + 2 * kv_heads) + head).to(tl.int64) * D
    x = tl.load(base + column, mask=inside, other=0.0).to(tl.float32)
    slot = tl.load(slots + token)
    if head < heads + kv_heads:
        other = tl.load(base + turned, mask=inside, other=0.0).to(tl.float32)
        if NORMS:
            r = 1.0 / tl.sqrt(tl.sum(x * x, 0) / D + eps)
            norm = q_norm if head < heads else k_norm
            x = x * r * tl.load(norm + column, mask=inside, other=0.0)
            other = other * r * tl.load(norm + turned, mask=inside, other=0.0)
        c = tl.load(cos + token * D + column, mask=inside, other=0.0)
        s = tl.load(sin + token * D + column, mask=inside, other=0.0)
        x = x * c + other * s
    if head < heads:
        to = q_out + (token * heads + head).to(tl.int64) * D
        tl.store(to + column, x.to(q_out.dtype.element_ty), mask=inside)
    elif slot >= 0:
        is_key = head < heads + kv_heads
        kv_head = tl.where(is_key, head - heads, head - heads - kv_heads)
        at = ((slot // BLOCK * kv_heads + kv_head) * BLOCK + slot % BLOCK) * D
        if is_key:
            tl.store(k_cache + at + column, x.to(k_cache.dtype.element_ty), mask=inside)
        else:
            tl.store(v_cache + at + column, x.to(v_cache.dtype.element_ty), mask=inside)


def rope_store(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, q_out: torch.Tensor, k_cache: torch.Tensor,
    v_cache: torch.Tensor, slots: torch.Tensor, norms: tuple[torch.Tensor, torch.Tensor] | None, eps: float,
) -> None:  # fmt: skip
    """qkv: [T, (H + 2 Hkv) d]; cos, sin: float32 [T, 1, d]; q_out: [T, H, d]; slots: [T], < 0: do not keep."""
    T, heads, d = q_out.shape
    _, kv_heads, block, _ = k_cache.shape
    q_norm, k_norm = norms or (cos, cos)
    _rope_store[(T, heads + 2 * kv_heads)](
        qkv, cos, sin, q_out, k_cache, v_cache, slots, q_norm, k_norm, heads, kv_heads, eps,
        BLOCK=block, D=d, WIDTH=triton.next_power_of_2(d), NORMS=norms is not None, num_warps=1,
    )  # fmt: skip
