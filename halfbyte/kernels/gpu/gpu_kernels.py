"""Kernels for one GPU: float16 (or bfloat16) activations beside a float32 residual stream."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from halfbyte.errors import KernelError
from halfbyte.kernels.gpu.attention import attend
from halfbyte.kernels.gpu.gpu_pass import GpuPass
from halfbyte.kernels.gpu.gpu_span import GpuSpan
from halfbyte.kernels.gpu.linear import GpuLinear
from halfbyte.kernels.gpu.mode import Mode
from halfbyte.kernels.gpu.portable import check_device, is_portable
from halfbyte.kernels.int8_cache import make_int8_cache
from halfbyte.kernels.interface import LinearWeight
from halfbyte.kernels.reference import store_paged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from halfbyte.kernels.cache_kind import CacheKind
    from halfbyte.kernels.interface import LinearKernel, PagedBatch, PassShape, Span, SpanKernel

LEAST_FP8 = (8, 9)
LEAST_BF16 = (8, 0)


class GpuKernels:
    """See interface.Kernels.

    Where a row's sums are taken in another order for another number of tokens, its last bits may differ (docs/gpu.md
    says between which numbers), unless they are `fixed`.
    """

    def __init__(self, device: torch.device, *, fixed: bool = False, dtype: torch.dtype = torch.float16) -> None:
        """fixed: a row's results do not depend on the others, not in one bit, at some cost in speed.

        dtype: of activations; those of bfloat16 go through Triton alone.
        Raises KernelError for a device that there are no such kernels for.
        """
        check_device(device)
        self.device, self.fixed = device, fixed
        if dtype == torch.bfloat16 and _is_older(device, LEAST_BF16):
            name = torch.cuda.get_device_name(device)
            raise KernelError(f"bfloat16 needs compute capability {LEAST_BF16}, which {name} has not; use float16")
        self.mode = Mode(is_portable(device) or dtype != torch.float16, fixed, dtype)

    def span(self, p: Span) -> SpanKernel:
        """Prepare a span."""
        return GpuSpan(p, self.device, self.mode)

    def whole_pass(self, shape: PassShape, spans: Sequence[SpanKernel]) -> GpuPass:
        """All spans, recorded for decoding."""
        return GpuPass(shape, spans, self.device, self.mode)  # type: ignore[arg-type]

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
        store_paged(k, v, k_cache, v_cache, batch)
        out = torch.empty(q.shape, dtype=self.mode.dtype, device=q.device)
        x = q.to(self.mode.dtype).contiguous()
        return attend(x, k_cache, v_cache, batch, scale, window, out, mode=self.mode).flatten(1)

    def kv_cache(self, blocks: int, heads: int, block_size: int, width: int, kind: CacheKind = "auto") -> torch.Tensor:
        """As activations are; e4m3, whose largest number is 448 and which keeps 4 bits of each; or int8 with scales."""
        if kind == "int8":
            return make_int8_cache(blocks, heads, block_size, width, self.device)
        if kind == "fp8" and (torch.version.hip is not None or _is_older(self.device, LEAST_FP8)):
            name = torch.cuda.get_device_name(self.device)
            raise KernelError(
                f"kv_cache_dtype 'fp8' needs an NVIDIA GPU of compute capability {LEAST_FP8}, which {name} is not; "
                "'int8' takes as little memory"
            )
        dtype = torch.float8_e4m3fn if kind == "fp8" else self.mode.dtype
        return torch.empty(blocks, heads, block_size, width, dtype=dtype, device=self.device)

    def linear(self, weight: LinearWeight) -> LinearKernel:
        """Prepare one linear by itself."""
        ready = GpuLinear(weight, self.device, mode=self.mode)
        return lambda x: ready.many(x.to(self.mode.dtype)).float()

    def head(self, weight: torch.Tensor) -> LinearKernel:
        """Prepare the output embedding."""
        rows = weight.shape[0]
        filled = F.pad(weight.to(self.mode.dtype), (0, 0, 0, -rows % 16))
        ready = GpuLinear(LinearWeight(filled), self.device, mode=self.mode)
        return lambda hidden: ready.floats(hidden.to(self.mode.dtype))[:, :rows]

    def threads(self, rows: int) -> contextlib.nullcontext[None]:
        """All of torch's threads, always."""
        return contextlib.nullcontext()


def _is_older(device: torch.device, least: tuple[int, int]) -> bool:
    nvidia = device.type == "cuda" and torch.version.hip is None
    return nvidia and torch.cuda.get_device_capability(device) < least
