"""One span by the native kernels."""

from __future__ import annotations

from ctypes import byref, pointer
from typing import TYPE_CHECKING

import torch

from halfbyte.kernels import reference
from halfbyte.kernels.cpu import library as native
from halfbyte.kernels.cpu.packed import PackedInt4, split_rows
from halfbyte.kernels.interface import AfterAttention, LinearWeight, Span

if TYPE_CHECKING:
    from halfbyte.kernels.cpu.library import Library
    from halfbyte.kernels.interface import Adapt


class NativeSpan:
    """See interface.SpanKernel. `native` points into the weights that this holds."""

    def __init__(self, library: Library, p: Span, *, in_parts: bool) -> None:
        """in_parts: product by product, so that there can be `adapt`, `reduce` and an order of inputs."""
        self.library = library
        self.norm = p.norm.float().contiguous()
        self.hidden = p.norm.shape[0]
        self.qkv = None if p.qkv is None else PackedInt4(library, p.qkv)
        self.after = None if p.after is None else NativeAfter(library, p.after)
        self.native = native.Span(
            None if self.after is None else pointer(self.after.native),
            self.norm.data_ptr(),
            None if self.qkv is None else pointer(self.qkv.native),
            self.hidden,
            p.eps,
        )
        self.width = self.hidden if self.qkv is None else self.qkv.outputs
        self.parts = self._in_parts(p) if in_parts else None

    def __call__(
        self, attended: torch.Tensor | None, residual: torch.Tensor, adapt: Adapt | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See interface.SpanKernel."""
        if self.parts is not None:
            return self._product_by_product(self.parts, attended, residual, adapt)
        assert adapt is None, "adapters need adaptable=True"
        residual = residual.float().clone(memory_format=torch.contiguous_format)
        x = None if attended is None else attended.float().contiguous()
        out = torch.empty(residual.shape[0], self.width)
        place = None if x is None else x.data_ptr()
        self.library("hb_span", byref(self.native), place, residual.data_ptr(), len(residual), out.data_ptr())
        return out, residual

    def _in_parts(self, p: Span) -> Span:
        """The norms, and nothing for the linears, which are looked up by name."""
        nothing = LinearWeight(torch.empty(0))
        reduce = None if p.after is None else p.after.reduce
        after = None if self.after is None else AfterAttention(nothing, self.after.norm, nothing, nothing, reduce)
        return Span(p.eps, after, self.norm, p.qkv and nothing)

    def _product_by_product(
        self, parts: Span, attended: torch.Tensor | None, residual: torch.Tensor, adapt: Adapt | None
    ) -> tuple[torch.Tensor, torch.Tensor]:

        def product(x: torch.Tensor, _: LinearWeight, name: str) -> torch.Tensor:
            y = self._product(x, name)
            if adapt is not None:
                adapt(name, x, y)
            return y

        return reference.span(parts, attended, residual, product)

    def _product(self, x: torch.Tensor, name: str) -> torch.Tensor:
        if name == "qkv":
            assert self.qkv is not None
            return self.qkv.multiply(x)
        assert self.after is not None
        if name == "gate_up":
            return torch.cat((self.after.gate.multiply(x), self.after.up.multiply(x)), 1)
        return (self.after.o if name == "o" else self.after.down).multiply(x)


class NativeAfter:
    """The second half of a block."""

    def __init__(self, library: Library, p: AfterAttention) -> None:
        gate, up = split_rows(p.gate_up)
        self.o, self.down = PackedInt4(library, p.o), PackedInt4(library, p.down)
        self.gate, self.up = PackedInt4(library, gate), PackedInt4(library, up)
        self.norm = p.norm.float().contiguous()
        linears = (self.o.native, self.gate.native, self.up.native, self.down.native)
        self.native = native.After(*linears, self.norm.data_ptr())
