"""Weights of a few bits in memory: as containers store them, and in the one form that every kernel repacks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import torch

KERNEL_BITS = 4
W = TypeVar("W", bound="IntWeight")


@dataclass(slots=True)
class IntWeight:
    """An [N, K] weight (N outputs, K inputs) as w = (q - z) * s + low, in whatever way a container can hold one.

    q: uint8 [N, K] in 0..2^bits - 1, one value a byte; s: float [N, groups]; z: uint8 [N, groups].
    Input k is of group g_idx[k] (int64 [K]); where that is None, of group k // G with G = K / groups. low: float
    [N, groups], which GGUF's types have that store a group's least value; None is 0, and then all containers hold it.
    """

    q: torch.Tensor
    s: torch.Tensor
    z: torch.Tensor
    bits: int = KERNEL_BITS
    g_idx: torch.Tensor | None = None
    low: torch.Tensor | None = None

    @property
    def group_size(self) -> int:
        """Weights that share one scale and zero point."""
        return self.q.shape[1] // self.s.shape[1]

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The weight that this stands for, [N, K]."""
        if self.g_idx is not None:
            return (self.q.to(dtype) - self.z.to(dtype)[:, self.g_idx]) * self.s.to(dtype)[:, self.g_idx]
        n, k = self.q.shape
        q = self.q.view(n, -1, self.group_size).to(dtype)
        w = (q - self.z.to(dtype)[..., None]) * self.s.to(dtype)[..., None]
        if self.low is not None:
            w = w + self.low.to(dtype)[..., None]
        return w.reshape(n, k)


@dataclass(slots=True)
class Int4Weight(IntWeight):
    """The form that kernels take: at most 4 bits (q and z in 0..15), groups of equal size one after another along K.

    s: float16 [N, K // G], or float32 where the container's scales do not fit float16.
    """


def group_index(weight: IntWeight) -> torch.Tensor:
    """The group of each input, int64 [K], whether or not it needs saying."""
    return torch.arange(weight.q.shape[1]) // weight.group_size if weight.g_idx is None else weight.g_idx


def rows_of(weight: W, part: slice) -> W:
    """Some of a weight's outputs; a view."""
    return replace(weight, q=weight.q[part], s=weight.s[part], z=weight.z[part])


def concat_rows(parts: list[W]) -> W:
    """Stack weights that share their input, and its order, so that one product serves them all (q, k, v; gate, up)."""
    q, s, z = (torch.cat([getattr(p, f) for p in parts]) for f in ("q", "s", "z"))
    return replace(parts[0], q=q, s=s, z=z)


def narrow_scales(scales: torch.Tensor) -> torch.Tensor:
    """Scales in float16 where that loses nothing, else in float32."""
    half = scales.to(torch.float16)
    return half if torch.equal(half.float(), scales.float()) else scales.float()
