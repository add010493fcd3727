"""What every kernel must compute, in plain torch. Also the float32 kernels, which the others are tested against."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F

from halfbyte.checkpoint.int4 import Int4Weight
from halfbyte.kernels.cache_kind import CacheKind
from halfbyte.kernels.int8_cache import TOP, make_int8_cache, scales_of
from halfbyte.kernels.interface import (
    Adapt,
    AfterAttention,
    LinearKernel,
    LinearWeight,
    PagedBatch,
    PassShape,
    Span,
    SpanKernel,
)

ROWS_FOR_EQUAL_ROUNDING = 4  # for each thread, see `linear_by_row`
Product = Callable[[torch.Tensor, LinearWeight, str], torch.Tensor]  # a linear of that name
Observe = Callable[[str, torch.Tensor], None]  # called with a linear's name and its input, for calibration


def linear(x: torch.Tensor, w: LinearWeight, name: str = "") -> torch.Tensor:
    """[T, K] -> [T, N]."""
    weight = w.weight.dequantize(x.dtype) if isinstance(w.weight, Int4Weight) else w.weight
    return F.linear(x if w.order is None else x[..., w.order], weight, w.bias)


def linear_by_row(x: torch.Tensor, w: LinearWeight) -> torch.Tensor:
    """`linear`, whose rows do not depend on how many there are, to the last bit.

    MKL takes other ways for 1, 2 and 3 rows, and shares rows out to threads. With multiples of 4 rows a thread a row
    came out the same for every number of rows and at every place among them (1 and 2 threads, AVX2;
    tests/kernels/test_equal_rows.py). So rows are filled up with zeros, which at SmolLM2's shapes on two threads made a
    product of one row 1.2 to 1.7 times as long.
    """
    rows = x.shape[0]
    missing = -rows % (ROWS_FOR_EQUAL_ROUNDING * torch.get_num_threads())
    if missing == 0 or x.device.type != "cpu":
        return linear(x, w)
    return linear(F.pad(x, (0, 0, 0, missing)), w)[:rows]


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x²) + eps) * weight over the last dimension (arXiv:1910.07467)."""
    return F.rms_norm(x, weight.shape, weight, eps)


def after_attention(
    p: AfterAttention,
    attended: torch.Tensor,
    residual: torch.Tensor,
    eps: float,
    observe: Observe | None = None,
    product: Product = linear,
) -> torch.Tensor:
    """The residual stream [T, D] after a block's output projection and SwiGLU MLP (arXiv:2002.05202)."""
    residual = residual + _reduced(p, product(attended, p.o, "o"))
    x = rms_norm(residual, p.norm, eps)
    gate, up = product(x, p.gate_up, "gate_up").chunk(2, -1)
    activated = F.silu(gate) * up
    if observe:
        for name, value in (("o", attended), ("gate_up", x), ("down", activated)):
            observe(name, value)
    return residual + _reduced(p, product(activated, p.down, "down"))


def _reduced(p: AfterAttention, part: torch.Tensor) -> torch.Tensor:
    if p.reduce is not None:
        p.reduce(part)
    return part


def span(
    p: Span, attended: torch.Tensor | None, residual: torch.Tensor, product: Product = linear
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `interface.Span`."""
    if p.after is not None:
        assert attended is not None
        residual = after_attention(p.after, attended, residual, p.eps, product=product)
    x = rms_norm(residual, p.norm, p.eps)
    return (x if p.qkv is None else product(x, p.qkv, "qkv")), residual


def adapted(adapt: Adapt | None) -> Product:
    """The product of a row-independent linear, with what `adapt` adds."""

    def product(x: torch.Tensor, w: LinearWeight, name: str) -> torch.Tensor:
        y = linear_by_row(x, w)
        if adapt is not None:
            adapt(name, x, y)
        return y

    return product


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, start: int = 0, window: int | None = None
) -> torch.Tensor:
    """Causal attention of the T newest tokens of sequences over their S tokens so far.

    q: [..., T, H, d]; k, v: [..., S, Hkv, d], S = start + T -> [..., T, H, d].
    Head h reads key-value head h // (H / Hkv).
    A window of w lets a token see itself and the w - 1 before it.
    """
    q, k, v = q.transpose(-3, -2), k.transpose(-3, -2), v.transpose(-3, -2)
    grouped = q.shape[-3] != k.shape[-3]
    if start == 0 and window is None:  # the common prefill: torch then skips what the mask would hide
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped).transpose(-3, -2)
    mask = causal_mask(q.shape[-2], start, window, q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped).transpose(-3, -2)


def paged_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    batch: PagedBatch,
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """Attention of each sequence's newest tokens over its cached ones (PagedAttention, arXiv:2309.06180).

    q: [T, H, d]; k, v: [T, Hkv, d]; k_cache, v_cache: [blocks, Hkv, block size, d] -> [T, H * d].
    The new keys and values are stored first, as the caches keep them. Each token is then computed by itself, with
    shapes that follow from its place in its sequence alone: so it comes out the same however the sequence was cut into
    passes. By one thread, for with two torch adds up in another order.
    """
    store_paged(k, v, k_cache, v_cache, batch)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    with _one_thread():
        _attend_each(out, q, k_cache, v_cache, batch, scale, window)
    return out.flatten(1)


def store_paged(
    k: torch.Tensor, v: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, batch: PagedBatch
) -> None:
    """Put k and v [T, Hkv, d] where the batch says, as the caches keep them."""
    size = k_cache.shape[2]
    block, place = batch.slot_mapping // size, batch.slot_mapping % size
    for x, cache in ((k, k_cache), (v, v_cache)):
        if cache.dtype == torch.int8:
            cache[block, :, place], scales_of(cache)[block, :, place] = to_int8(x)
        else:
            cache[block, :, place] = x.to(cache.dtype)


def to_int8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[T, Hkv, d] as int8 of that shape, and scales float32 [T, Hkv]; a head that is not finite gets one that is not.

    x is nearly q * scale: the largest number of each head and token becomes 127 or -127.
    """
    x = x.float()
    scale = x.abs().amax(-1) / TOP + x.sum(-1) * 0.0
    steps = torch.where(scale[..., None] > 0, x / scale[..., None], 0.0)
    return steps.round().clamp(-TOP, TOP).to(torch.int8), scale


def from_cache(cache: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """Those blocks [n, Hkv, block size, d] of a cache; of 8 bits with scales, what they stand for."""
    numbers = cache[blocks]
    return numbers * scales_of(cache)[blocks][..., None] if cache.dtype == torch.int8 else numbers


def _attend_each(
    out: torch.Tensor,
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    batch: PagedBatch,
    scale: float,
    window: int | None,
) -> None:
    size = k_cache.shape[2]
    starts, contexts = batch.query_start.tolist(), batch.context_lens.tolist()
    for s, context in enumerate(contexts):
        first, end = starts[s], starts[s + 1]
        table = batch.block_tables[s, : -(-context // size)].long()
        keys, values = (_in_order(from_cache(cache, table)).to(q.dtype) for cache in (k_cache, v_cache))
        for row in range(first, end):
            seen = context - (end - 1 - row)
            part = slice(0 if window is None else max(0, seen - window), seen)
            out[row] = attend_one(q[row], keys[:, part], values[:, part], scale)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def attend_one(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    """One token's q [H, d] over keys and values [Hkv, S, d], all of which it sees -> [H, d].

    The query heads that share a key-value head go as if they were so many tokens, which reads the keys once.
    """
    grouped = q.reshape(1, keys.shape[0], -1, q.shape[-1])
    return F.scaled_dot_product_attention(grouped, keys[None], values[None], scale=scale).view_as(q)


def _in_order(blocks: torch.Tensor) -> torch.Tensor:
    """[blocks, Hkv, block size, d] -> [Hkv, tokens, d]."""
    return blocks.transpose(0, 1).flatten(1, 2)


def causal_mask(new: int, start: int, window: int | None, device: torch.device) -> torch.Tensor:
    """[new, start + new] bool: which keys each new token sees."""
    query = torch.arange(start, start + new, device=device)[:, None]
    key = torch.arange(start + new, device=device)
    seen = key <= query
    return seen if window is None else seen & (key > query - window)


class ReferenceKernels:
    """Float32 (or whatever the weights are in), nothing fused, 4-bit weights made float when they are prepared."""

    def __init__(self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        """device: where weights are brought; caches lie on the CPU."""
        self.dtype, self.device = dtype, device
        self.takes_order = True

    def span(self, p: Span) -> SpanKernel:
        """Prepare a span."""
        after = p.after and AfterAttention(
            self._float(p.after.o),
            p.after.norm.to(self.device, self.dtype),
            self._float(p.after.gate_up),
            self._float(p.after.down),
            p.after.reduce,
        )
        ready = Span(p.eps, after, p.norm.to(self.device, self.dtype), p.qkv and self._float(p.qkv))
        return lambda attended, residual, adapt=None: span(ready, attended, residual, adapted(adapt))

    def whole_pass(self, shape: PassShape, spans: Sequence[SpanKernel]) -> None:
        """None: a pass goes span by span."""

    def attention(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        batch: PagedBatch,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """See paged_attention."""
        return paged_attention(q, k, v, k_cache, v_cache, batch, scale, window)

    def kv_cache(self, blocks: int, heads: int, block_size: int, width: int, kind: CacheKind = "auto") -> torch.Tensor:
        """In the dtype of the weights, or as asked for. Not zeroed: memory that is never used is then never taken."""
        if kind == "int8":
            return make_int8_cache(blocks, heads, block_size, width)
        dtype = torch.float8_e4m3fn if kind == "fp8" else self.dtype
        return torch.empty(blocks, heads, block_size, width, dtype=dtype)

    def linear(self, weight: LinearWeight) -> LinearKernel:
        """Prepare one linear by itself."""
        ready = self._float(weight)
        return lambda x: linear_by_row(x, ready)

    def head(self, weight: torch.Tensor) -> LinearKernel:
        """Prepare the output embedding."""
        ready = LinearWeight(weight.to(self.device, self.dtype))
        return lambda x: linear_by_row(x, ready).float()

    def threads(self, rows: int) -> contextlib.nullcontext[None]:
        """All of torch's threads, always."""
        return contextlib.nullcontext()

    def _float(self, w: LinearWeight) -> LinearWeight:
        weight = w.weight.dequantize(self.dtype) if isinstance(w.weight, Int4Weight) else w.weight.to(self.dtype)
        if w.order is not None:
            inputs = int(w.order.max()) + 1
            weight = weight.new_zeros(len(weight), inputs).index_add_(1, w.order, weight)  # see checkpoint.kernel_form
        bias = None if w.bias is None else w.bias.to(self.device, self.dtype)
        return LinearWeight(weight.to(self.device), bias)
