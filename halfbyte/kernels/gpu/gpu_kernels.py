"""Kernels for one NVIDIA GPU: float16 activations beside a float32 residual stream."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from halfbyte.errors import KernelError
from halfbyte.kernels.gpu.attention import attend
from halfbyte.kernels.gpu.gpu_pass import GpuPass
from halfbyte.kernels.gpu.gpu_span import GpuSpan
from halfbyte.kernels.gpu.linear import FEW, GpuLinear
from halfbyte.kernels.interface import LinearWeight

if TYPE_CHECKING:
    from collections.abc import Sequence

    from halfbyte.kernels.cache_kind import CacheKind
    from halfbyte.kernels.interface import LinearKernel, PagedBatch, PassShape, Span, SpanKernel

LEAST_FP8 = (8, 9)
LEAST = (8, 0)  # compute capability: the matrix products that the kernels are written with


class GpuKernels:
    """See interface.Kernels.

    Where a row's sums are taken in another order for another number of tokens, its last bits may differ: on Hopper
    between recorded passes of up to 4 tokens, passes of up to 8, 32, 64 and 128 and larger ones, elsewhere in passes of
    more than SLICED.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        capability = torch.cuda.get_device_capability(device)
        if capability < LEAST:
            name = torch.cuda.get_device_name(device)
            raise KernelError(f"{name} is of compute capability {capability}, kernels need {LEAST}; run it on the CPU")

    def span(self, p: Span) -> SpanKernel:
        """Prepare a span."""
        return GpuSpan(p, self.device)

    def whole_pass(self, shape: PassShape, spans: Sequence[SpanKernel]) -> GpuPass:
        """All spans, recorded for decoding."""
        return GpuPass(shape, spans, self.device)  # type: ignore[arg-type]

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
        """See interface.Kernels."""
        size = k_cache.shape[2]
        block, place = batch.slot_mapping // size, batch.slot_mapping % size
        k_cache[block, :, place] = k.to(k_cache.dtype)
        v_cache[block, :, place] = v.to(v_cache.dtype)
        out = torch.empty(q.shape, dtype=torch.float16, device=q.device)
        return attend(q.half().contiguous(), k_cache, v_cache, batch, scale, window, out).flatten(1)

    def kv_cache(self, blocks: int, heads: int, block_size: int, width: int, kind: CacheKind = "auto") -> torch.Tensor:
        """Float16; or e4m3, whose largest number is 448 and which keeps 4 bits of each."""
        if kind == "fp8" and torch.cuda.get_device_capability(self.device) < LEAST_FP8:
            name = torch.cuda.get_device_name(self.device)
            raise KernelError(f"kv_cache_dtype 'fp8' needs compute capability {LEAST_FP8}, which {name} has not")
        dtype = torch.float8_e4m3fn if kind == "fp8" else torch.float16
        return torch.empty(blocks, heads, block_size, width, dtype=dtype, device=self.device)

    def linear(self, weight: LinearWeight) -> LinearKernel:
        """Prepare one linear by itself."""
        ready = GpuLinear(weight, self.device)
        return lambda x: ready.many(x.half()).float()

    def head(self, weight: torch.Tensor) -> LinearKernel:
        """Prepare the output embedding."""
        rows = weight.shape[0]
        ready = GpuLinear(LinearWeight(F.pad(weight.half(), (0, 0, 0, -rows % 16))), self.device)

        def logits(hidden: torch.Tensor) -> torch.Tensor:
            x = hidden.half()
            if not ready.streams or x.shape[0] > FEW:
                return ready.many(x)[:, :rows].float()
            out = torch.empty(x.shape[0], ready.N, device=x.device)
            ready.few(x.contiguous(), out, "float")
            return out[:, :rows]

        return logits

    def threads(self, rows: int) -> contextlib.nullcontext[None]:
        """All of torch's threads, always."""
        return contextlib.nullcontext()
