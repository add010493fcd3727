"""A 4-bit weight matrix in memory, in one neutral form that every container is read into and every kernel repacks."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(slots=True)
class Int4Weight:
    """An [N, K] weight (N outputs, K inputs) as w = (q - z) * s, with q and z in 0..15 and groups along K.

    q: uint8 [N, K], one value a byte; s: float16 [N, K // G]; z: uint8 [N, K // G].
    """

    q: torch.Tensor
    s: torch.Tensor
    z: torch.Tensor

    @property
    def group_size(self) -> int:
        """Weights that share one scale and zero point."""
        return self.q.shape[1] // self.s.shape[1]

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The weight that this stands for, [N, K]."""
        n, k = self.q.shape
        q = self.q.view(n, -1, self.group_size).to(dtype)
        return ((q - self.z.to(dtype)[..., None]) * self.s.to(dtype)[..., None]).reshape(n, k)


def rows_of(weight: Int4Weight, part: slice) -> Int4Weight:
    """Some of a weight's outputs; a view."""
    return Int4Weight(weight.q[part], weight.s[part], weight.z[part])


def concat_rows(parts: list[Int4Weight]) -> Int4Weight:
    """Stack weights that share their input, so that one product serves them all (q, k, v; gate, up)."""
    return Int4Weight(*(torch.cat([getattr(p, f) for p in parts]) for f in ("q", "s", "z")))
