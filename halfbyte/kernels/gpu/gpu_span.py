"""A span on a GPU: four products, which take activations and sums along, and for few tokens norms too."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from halfbyte.kernels.gpu.choices import choices
from halfbyte.kernels.gpu.linear import GpuLinear, gate_and_up, is_wide, rows_of
from halfbyte.kernels.gpu.mode import Mode
from halfbyte.kernels.gpu.wide import CHUNK, in_tiles_order, norm_rows, takes, wide_linear

if TYPE_CHECKING:
    from collections.abc import Iterator

    from halfbyte.kernels.interface import Adapt, Span


class GpuSpan:
    """See interface.SpanKernel. Activations are of the mode's dtype, the residual stream is float32."""

    def __init__(self, p: Span, device: torch.device, mode: Mode | None = None) -> None:
        """mode: None, the device's."""
        self.eps = p.eps
        self.mode = Mode.of(device) if mode is None else mode
        self.choices = choices(device)
        self.norm = p.norm.float().to(device)
        self.qkv = None if p.qkv is None else GpuLinear(p.qkv, device, mode=self.mode)
        self.after = p.after is not None
        self.reduce = None if p.after is None else p.after.reduce
        linears = [self.qkv] if self.qkv else []
        if p.after is not None:
            self.o, self.down = (GpuLinear(w, device, mode=self.mode) for w in (p.after.o, p.after.down))
            self.gated = rows_of(p.after.gate_up) % 16 == 0
            self.gate_up = GpuLinear(p.after.gate_up, device, gated=self.gated, mode=self.mode)
            self.after_norm = p.after.norm.float().to(device)
            linears += [self.o, self.down, self.gate_up]
        pairs = not self.after or self.gated  # gate and up can be multiplied on the way out
        self.widens = not self.mode.portable and is_wide(device) and all(takes(linear) for linear in linears) and pairs
        if p.after is not None:
            self.widens = self.widens and takes(self.gate_up, silu=True)
        self.streams = all(linear.streams for linear in linears) and pairs

    def __call__(
        self, attended: torch.Tensor | None, residual: torch.Tensor, adapt: Adapt | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See interface.SpanKernel. attended: float16."""
        residual = residual.clone()
        return self.run(attended, residual, adapt), residual

    def is_wide(self, T: int) -> bool:
        """Whether T tokens go through the products that take x in the order of tiles."""
        return self.widens and (self.mode.fixed or self.choices.wide_from <= T)

    def _streams(self, T: int) -> bool:
        """Whether T tokens go through products that read 4-bit weights as they lie."""
        most = self.choices.triton_to if self.mode.portable else self.choices.stream_to
        return self.streams and (self.mode.fixed or most >= T)

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
            return self._in_chunks(attended, residual) if self.mode.fixed else self._wide(attended, residual)
        if adapt is None and self._streams(T):
            return self._few(attended, residual)
        return self._many(attended, residual, adapt)

    def _in_chunks(self, attended: torch.Tensor | None, residual: torch.Tensor) -> torch.Tensor:
        """`_wide` by CHUNK tokens, so that a row's sums do not depend on how many there are."""
        parts = []
        for begin in range(0, len(residual), CHUNK):
            rows = slice(begin, begin + CHUNK)
            parts.append(self._wide(None if attended is None else attended[rows], residual[rows]))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _wide(self, attended: torch.Tensor | None, residual: torch.Tensor) -> torch.Tensor:
        T = residual.shape[0]
        if self.after:
            assert attended is not None
            with self._sum(residual) as total:
                wide_linear(self.o, attended, total, "added")
            x = norm_rows(residual, self.after_norm, self.eps)
            activated = torch.empty(T, self.down.K, dtype=self.mode.dtype, device=residual.device)
            wide_linear(self.gate_up, x, activated, "silu")
            with self._sum(residual) as total:
                wide_linear(self.down, activated, total, "added")
        if self.qkv is None:
            return F.rms_norm(residual, self.norm.shape, self.norm, self.eps)
        out = torch.empty(T, self.qkv.N, dtype=self.mode.dtype, device=residual.device)
        wide_linear(self.qkv, norm_rows(residual, self.norm, self.eps), out, "half")
        return out

    def _few(self, attended: torch.Tensor | None, residual: torch.Tensor) -> torch.Tensor:
        T = residual.shape[0]
        if self.after:
            assert attended is not None
            with self._sum(residual) as total:
                self.o.sliced(attended, total, "added")
            activated = torch.empty(T, self.down.K, dtype=self.mode.dtype, device=residual.device)
            self.gate_up.sliced(residual, activated, "silu", self.after_norm, self.eps)
            with self._sum(residual) as total:
                self.down.sliced(activated, total, "added")
        if self.qkv is None:
            return F.rms_norm(residual, self.norm.shape, self.norm, self.eps)
        out = torch.empty(T, self.qkv.N, dtype=self.mode.dtype, device=residual.device)
        self.qkv.sliced(residual, out, "half", self.norm, self.eps)
        return out

    @contextlib.contextmanager
    def _sum(self, residual: torch.Tensor) -> Iterator[torch.Tensor]:
        """What a product is to be added to: the residual stream, or zeros that are then reduced and added to it."""
        if self.reduce is None:
            yield residual
            return
        part = torch.zeros_like(residual)
        yield part
        self.reduce(part)
        residual += part

    def _many(self, attended: torch.Tensor | None, residual: torch.Tensor, adapt: Adapt | None) -> torch.Tensor:
        if self.after:
            assert attended is not None
            with self._sum(residual) as total:
                total.add_(_product(attended, self.o, "o", adapt))
            x = F.rms_norm(residual, self.after_norm.shape, self.after_norm, self.eps)
            y = _product(x, self.gate_up, "gate_up", adapt)
            gate, up = gate_and_up(y) if self.gated else y.chunk(2, -1)
            with self._sum(residual) as total:
                total.add_(_product((F.silu(gate) * up).flatten(1), self.down, "down", adapt))
        x = F.rms_norm(residual, self.norm.shape, self.norm, self.eps)
        return x if self.qkv is None else _product(x, self.qkv, "qkv", adapt)


def _product(x: torch.Tensor, linear: GpuLinear, name: str, adapt: Adapt | None) -> torch.Tensor:
    y = linear.many(x.to(linear.mode.dtype))
    if adapt is None:
        return y
    wide = y.float()
    if not linear.gated:
        adapt(name, x.float(), wide)
        return wide
    plain = torch.cat([part.flatten(1) for part in gate_and_up(wide)], 1)  # gate rows, then up rows
    adapt(name, x.float(), plain)
    return torch.stack([part.view(len(x), -1, 8) for part in plain.chunk(2, 1)], 2).flatten(1)
