"""What every kernel must compute, in plain torch. Also the float32 kernels, which the others are tested against."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
import torch.nn.functional as F

from halfbyte.checkpoint.int4 import Int4Weight
from halfbyte.kernels.interface import AfterAttention, LinearKernel, LinearWeight, Span, SpanKernel

Observe = Callable[[str, torch.Tensor], None]  # called with a linear's name and its input, for calibration


def linear(x: torch.Tensor, w: LinearWeight) -> torch.Tensor:
    """[T, K] -> [T, N]."""
    weight = w.weight.dequantize(x.dtype) if isinstance(w.weight, Int4Weight) else w.weight
    return F.linear(x, weight, w.bias)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x²) + eps) * weight over the last dimension (arXiv:1910.07467)."""
    return F.rms_norm(x, weight.shape, weight, eps)


def after_attention(
    p: AfterAttention, attended: torch.Tensor, residual: torch.Tensor, eps: float, observe: Observe | None = None
) -> torch.Tensor:
    """The residual stream [T, D] after a block's output projection and SwiGLU MLP (arXiv:2002.05202)."""
    residual = residual + linear(attended, p.o)
    x = rms_norm(residual, p.norm, eps)
    gate, up = linear(x, p.gate_up).chunk(2, -1)
    activated = F.silu(gate) * up
    if observe:
        for name, value in (("o", attended), ("gate_up", x), ("down", activated)):
            observe(name, value)
    return residual + linear(activated, p.down)


def span(p: Span, attended: torch.Tensor | None, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See `interface.Span`."""
    if p.after is not None:
        assert attended is not None
        residual = after_attention(p.after, attended, residual, p.eps)
    x = rms_norm(residual, p.norm, p.eps)
    return (x if p.qkv is None else linear(x, p.qkv)), residual


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


def causal_mask(new: int, start: int, window: int | None, device: torch.device) -> torch.Tensor:
    """[new, start + new] bool: which keys each new token sees."""
    query = torch.arange(start, start + new, device=device)[:, None]
    key = torch.arange(start + new, device=device)
    seen = key <= query
    return seen if window is None else seen & (key > query - window)


class ReferenceKernels:
    """Float32 (or whatever the weights are in), nothing fused, 4-bit weights made float when they are prepared."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype

    def span(self, p: Span) -> SpanKernel:
        """Prepare a span."""
        after = p.after and AfterAttention(
            self._float(p.after.o), p.after.norm.to(self.dtype), self._float(p.after.gate_up), self._float(p.after.down)
        )
        ready = Span(p.eps, after, p.norm.to(self.dtype), p.qkv and self._float(p.qkv))
        return lambda attended, residual: span(ready, attended, residual)

    def linear(self, weight: LinearWeight) -> LinearKernel:
        """Prepare one linear by itself."""
        ready = self._float(weight)
        return lambda x: linear(x, ready)

    def head(self, weight: torch.Tensor) -> LinearKernel:
        """Prepare the output embedding."""
        ready = weight.to(self.dtype)
        return lambda x: F.linear(x, ready).float()

    def threads(self, rows: int) -> contextlib.nullcontext[None]:
        """All of torch's threads, always."""
        return contextlib.nullcontext()

    def _float(self, w: LinearWeight) -> LinearWeight:
        weight = w.weight.dequantize(self.dtype) if isinstance(w.weight, Int4Weight) else w.weight.to(self.dtype)
        return LinearWeight(weight, None if w.bias is None else w.bias.to(self.dtype))
