"""A span on a GPU: four products, which take activations and sums along, and for few tokens norms too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from halfbyte.kernels.gpu.linear import SLICED, GpuLinear, gate_and_up, is_wide, rows_of
from halfbyte.kernels.gpu.wide import LEAST_TOKENS, in_tiles_order, norm_rows, takes, wide_linear

if TYPE_CHECKING:
    from halfbyte.kernels.interface import Adapt, Span


class GpuSpan:
    """See interface.SpanKernel. Activations are float16, the residual stream is float32."""

    def __init__(self, p: Span, device: torch.device) -> None:
        self.eps = p.eps
        self.norm = p.norm.float().to(device)
        self.qkv = None if p.qkv is None else GpuLinear(p.qkv, device)
        self.after = p.after is not None
        linears = [self.qkv] if self.qkv else []
        if p.after is not None:
            self.o, self.down = GpuLinear(p.after.o, device), GpuLinear(p.after.down, device)
            self.gated = rows_of(p.after.gate_up) % 16 == 0
            self.gate_up = GpuLinear(p.after.gate_up, device, gated=self.gated)
            self.after_norm = p.after.norm.float().to(device)
            linears += [self.o, self.down, self.gate_up]
        self.widens = is_wide(device) and all(takes(linear) for linear in linears) and (not self.after or self.gated)
        if p.after is not None:
            self.widens = self.widens and takes(self.gate_up, silu=True)
        self.streams = all(linear.streams for linear in linears) and (not self.after or self.gated)

    def __call__(
        self, attended: torch.Tensor | None, residual: torch.Tensor, adapt: Adapt | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See interface.SpanKernel. attended: float16."""
        residual = residual.clone()
        return self.run(attended, residual, adapt), residual

    def is_wide(self, T: int) -> bool:
        """Whether T tokens go through the products that take x in the order of tiles."""
        return self.widens and T >= LEAST_TOKENS

    def run(
        self, attended: torch.Tensor | None, residual: torch.Tensor, adapt: Adapt | None = None, *, tiled: bool = False
    ) -> torch.Tensor:
        """What comes out; the residual stream [T, D] is added to where it lies.

        tiled: `attended` is in the order of tiles, as it may be where `is_wide` says so and there are no adapters.
        """
        T = residual.shape[0]
        if adapt is None and self.is_wide(T):
            if attended is not None and not tiled:
                attended = in_tiles_order(attended)
            return self._wide(attended, residual)
        if self.streams and adapt is None and T <= SLICED:
            return self._few(attended, residual)
        return self._many(attended, residual, adapt)

    def _wide(self, attended: torch.Tensor | None, residual: torch.Tensor) -> torch.Tensor:
        T = residual.shape[0]
        if self.after:
            assert attended is not None
            wide_linear(self.o, attended, residual, "added")
            x = norm_rows(residual, self.after_norm, self.eps)
            activated = torch.empty(T, self.down.K, dtype=torch.float16, device=residual.device)
            wide_linear(self.gate_up, x, activated, "silu")
            wide_linear(self.down, activated, residual, "added")
        if self.qkv is None:
            return F.rms_norm(residual, self.norm.shape, self.norm, self.eps)
        out = torch.empty(T, self.qkv.N, dtype=torch.float16, device=residual.device)
        wide_linear(self.qkv, norm_rows(residual, self.norm, self.eps), out, "half")
        return out

    def _few(self, attended: torch.Tensor | None, residual: torch.Tensor) -> torch.Tensor:
        T = residual.shape[0]
        if self.after:
            assert attended is not None
            self.o.sliced(attended, residual, "added")
            activated = torch.empty(T, self.down.K, dtype=torch.float16, device=residual.device)
            self.gate_up.sliced(residual, activated, "silu", self.after_norm, self.eps)
            self.down.sliced(activated, residual, "added")
        if self.qkv is None:
            return F.rms_norm(residual, self.norm.shape, self.norm, self.eps)
        out = torch.empty(T, self.qkv.N, dtype=torch.float16, device=residual.device)
        self.qkv.sliced(residual, out, "half", self.norm, self.eps)
        return out

    def _many(self, attended: torch.Tensor | None, residual: torch.Tensor, adapt: Adapt | None) -> torch.Tensor:
        if self.after:
            assert attended is not None
            residual += _product(attended, self.o, "o", adapt)
            x = F.rms_norm(residual, self.after_norm.shape, self.after_norm, self.eps)
            y = _product(x, self.gate_up, "gate_up", adapt)
            gate, up = gate_and_up(y) if self.gated else y.chunk(2, -1)
            residual += _product((F.silu(gate) * up).flatten(1), self.down, "down", adapt)
        x = F.rms_norm(residual, self.norm.shape, self.norm, self.eps)
        return x if self.qkv is None else _product(x, self.qkv, "qkv", adapt)


def _product(x: torch.Tensor, linear: GpuLinear, name: str, adapt: Adapt | None) -> torch.Tensor:
    y = linear.many(x.half())
    if adapt is None:
        return y
    wide = y.float()
    if not linear.gated:
        adapt(name, x.float(), wide)
        return wide
    plain = torch.cat([part.flatten(1) for part in gate_and_up(wide)], 1)  # gate rows, then up rows
    adapt(name, x.float(), plain)
    return torch.stack([part.view(len(x), -1, 8) for part in plain.chunk(2, 1)], 2).flatten(1)
