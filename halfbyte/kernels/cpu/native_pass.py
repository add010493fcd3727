"""A whole pass in one native call: spans, rotary embedding, the cache and attention."""

from __future__ import annotations

import ctypes
from ctypes import byref
from typing import TYPE_CHECKING

import torch

from halfbyte.kernels.cpu import library as native
from halfbyte.kernels.cpu.paged import layer_cache, paged_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from halfbyte.kernels.cpu.library import Library
    from halfbyte.kernels.cpu.native_span import NativeSpan
    from halfbyte.kernels.interface import PagedCaches, PassShape


KINDS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # pass.h's Start


class NativePass:
    """See interface.PassKernel."""

    def __init__(self, library: Library, shape: PassShape, spans: Sequence[NativeSpan]) -> None:
        self.library, self.shape, self.held = library, shape, list(spans)
        self._last: tuple[object, ctypes.Array[native.LayerCache]] | None = None
        layers = len(spans) - 1
        self.norms = [tuple(x.float().contiguous() for x in n) if n else None for n in shape.qk_norms]
        places = (tuple(x.data_ptr() for x in n) if n else (None, None) for n in self.norms)
        self.native_spans = (native.Span * len(spans))(*(s.native for s in spans))
        self.native_norms = (native.HeadNorms * layers)(*(native.HeadNorms(*p) for p in places))
        self.native = native.Network(
            layers,
            spans[0].hidden,
            max(s.after.down.inputs for s in spans if s.after),
            shape.heads,
            shape.kv_heads,
            shape.head_dim,
            self.native_spans,
            self.native_norms,
            shape.eps,
        )

    def __call__(
        self, embedded: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, past: PagedCaches
    ) -> torch.Tensor | None:
        """See interface.PassKernel."""
        keys = past.caches[0][0]
        if keys.dtype != torch.float16:  # see NativeKernels.kv_cache
            return None
        residual = embedded.contiguous()  # nobody else has it, see PassKernel
        hidden = torch.empty_like(residual)
        cos, sin = cos.contiguous(), sin.contiguous()
        paged, _held = paged_arguments(past.batch, self.shape.heads, keys, past.scale)
        tensors = (x.data_ptr() for x in (cos, sin, residual, hidden))
        self.library("hb_pass", byref(self.native), byref(paged), self._caches(past), None, *tensors)
        return hidden

    def decode(
        self, tokens: torch.Tensor, positions: torch.Tensor, lengths: torch.Tensor | None, past: PagedCaches
    ) -> torch.Tensor | None:
        """See interface.PassKernel. At one row, looking up takes torch longer than it takes C to compute a layer."""
        keys, embedding = past.caches[0][0], self.shape.embedding
        angles = None if lengths is not None else self.shape.angles(past.batch.max_context)
        if keys.dtype != torch.float16 or embedding is None or angles is None:
            return None
        if embedding.dtype not in KINDS or not embedding.is_contiguous():
            return None
        hidden = torch.empty(2, tokens.shape[0], embedding.shape[1])  # the residual, and what is behind the final norm
        paged, _held = paged_arguments(past.batch, self.shape.heads, keys, past.scale)
        given = (tokens.data_ptr(), positions.data_ptr(), *(x.data_ptr() for x in angles))
        start = native.Start(embedding.data_ptr(), KINDS[embedding.dtype], *given)
        places = hidden.data_ptr(), hidden.data_ptr() + hidden.nbytes // 2
        self.library("hb_pass", byref(self.native), byref(paged), self._caches(past), byref(start), None, None, *places)
        return hidden[1]

    def _caches(self, past: PagedCaches) -> ctypes.Array[native.LayerCache]:
        """Of all layers; those of the last call again, if it was for the same list."""
        if self._last is None or self._last[0] is not past.caches:
            layers = [layer_cache(k, v, w) for (k, v), w in zip(past.caches, past.windows, strict=True)]
            self._last = past.caches, (native.LayerCache * len(layers))(*layers)
        return self._last[1]
