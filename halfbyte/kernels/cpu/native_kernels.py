"""Spans, attention and whole passes by our own C (native/), for 4-bit linears in groups of a multiple of 32.

What it cannot take (float linears, other groups, small heads) goes to onnxruntime or torch, operation by operation.
"""

from __future__ import annotations

import contextlib
from ctypes import byref
from typing import TYPE_CHECKING

import torch

from halfbyte.kernels import reference
from halfbyte.kernels.cache_kind import CacheKind, only_auto
from halfbyte.kernels.cpu import library as native
from halfbyte.kernels.cpu.native_pass import NativePass
from halfbyte.kernels.cpu.native_span import NativeSpan
from halfbyte.kernels.cpu.packed import BLOCK, PackedInt4, PackedInt8, fits
from halfbyte.kernels.cpu.paged import layer_cache, paged_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from halfbyte.kernels.cpu.library import Library
    from halfbyte.kernels.cpu.onnx_kernels import OnnxKernels
    from halfbyte.kernels.interface import (
        LinearKernel,
        LinearWeight,
        PagedBatch,
        PassKernel,
        PassShape,
        Span,
        SpanKernel,
    )

ROWS_FOR_ONE_THREAD = 16
ANY_THREADS = contextlib.nullcontext()


class OneThread:
    """torch works with one thread within. A class, for a generator takes longer and there are three of these a step."""

    def __enter__(self) -> None:
        self._before = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._before)


class NativeKernels:
    """4-bit linears stay 4-bit, the head runs in 7 bits, activations are rounded to 8 bits in blocks of 32."""

    def __init__(self, library: Library, *, adaptable: bool = False) -> None:
        """library: see `load_library`. adaptable: spans can be called with `adapt`.

        They then go product by product, also where nothing is added: a row must come out the same in either case.
        """
        self.library, self.adaptable = library, adaptable
        self.takes_order = True
        library.threads(torch.get_num_threads())

    def span(self, p: Span) -> SpanKernel:
        """Prepare a span."""
        linears = [p.qkv, *((p.after.o, p.after.gate_up, p.after.down) if p.after else ())]
        if all(w is None or fits(w) for w in linears):
            in_order = all(w is None or w.order is None for w in linears)
            shared = p.after is not None and p.after.reduce is not None
            return NativeSpan(self.library, p, in_parts=self.adaptable or shared or not in_order)
        return self._onnx().span(p)

    def whole_pass(self, shape: PassShape, spans: Sequence[SpanKernel]) -> PassKernel | None:
        """All spans and attentions in one call, if all of them are native."""
        if self.adaptable:
            return None
        own = [s for s in spans if isinstance(s, NativeSpan) and s.parts is None]
        return NativePass(self.library, shape, own) if len(own) == len(spans) else None

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
        """See reference.paged_attention."""
        if k_cache.dtype != torch.float16:
            return reference.paged_attention(q, k, v, k_cache, v_cache, batch, scale, window)
        rows, heads, d = q.shape
        q, k, v = ((q * scale).contiguous(), k.float().contiguous(), v.float().contiguous())
        out = torch.empty(rows, heads * d)
        paged, _held = paged_arguments(batch, heads, k_cache, scale)
        cache = layer_cache(k_cache, v_cache, window)
        self.library("hb_attention", byref(paged), byref(cache), *(x.data_ptr() for x in (q, k, v, out)))
        return out

    def kv_cache(self, blocks: int, heads: int, block_size: int, width: int, kind: CacheKind = "auto") -> torch.Tensor:
        """Float16, the keys in an order of their own (native/attention.h); float32 where torch has to do the work.

        Not zeroed: memory that is never used is then never taken.
        """
        only_auto(kind)
        native_fits = width % 32 == 0 and width <= native.MAX_HEAD and block_size % native.KEYS == 0
        return torch.empty(blocks, heads, block_size, width, dtype=torch.float16 if native_fits else torch.float32)

    def linear(self, weight: LinearWeight) -> LinearKernel:
        """Prepare one linear by itself."""
        if not fits(weight):
            return self._onnx().linear(weight)
        packed = PackedInt4(self.library, weight)
        return packed.multiply

    def head(self, weight: torch.Tensor) -> LinearKernel:
        """Prepare the output embedding in 7 bits."""
        if weight.shape[1] % BLOCK:
            return self._onnx().head(weight)
        packed = PackedInt8(self.library, weight)
        return packed.multiply

    def threads(self, rows: int) -> AbstractContextManager[None]:
        """At a few rows torch works alone: its threads and ours would fight for the cores."""
        if rows > ROWS_FOR_ONE_THREAD or torch.get_num_threads() == 1:
            return ANY_THREADS
        return OneThread()

    def _onnx(self) -> OnnxKernels:
        from halfbyte.kernels.cpu.onnx_kernels import OnnxKernels  # noqa: PLC0415  it takes 0.2 s to import

        return OnnxKernels(adaptable=self.adaptable)
