"""Weights in the tiles that the native kernels read (native/int4.h, int8.h). They own the only copy."""

from __future__ import annotations

from ctypes import byref
from typing import TYPE_CHECKING

import torch

from halfbyte.checkpoint.int4 import Int4Weight, rows_of
from halfbyte.kernels.cpu.library import Int4Linear, Int8Linear

if TYPE_CHECKING:
    from halfbyte.kernels.cpu.library import Library
    from halfbyte.kernels.interface import LinearWeight

BLOCK, TILE = 32, 16
ROWS_AT_ONCE = 4096  # of the head, made float32 and rounded


def fits(w: LinearWeight) -> bool:
    """Whether the native kernels can take this linear: 4-bit, in groups of a multiple of 32.

    Where inputs are in an order of their own, only with scales that are float16: onnxruntime takes others as they are.
    """
    if not isinstance(w.weight, Int4Weight) or w.weight.group_size % BLOCK:
        return False
    return w.order is None or w.weight.s.dtype == torch.float16


class PackedInt4:
    """A 4-bit linear. `native` points into the tensors, which must outlive it."""

    def __init__(self, library: Library, w: LinearWeight) -> None:
        assert isinstance(w.weight, Int4Weight)
        q, scales, zeros = w.weight.q.contiguous(), w.weight.s.half().contiguous(), w.weight.z.contiguous()
        (n, k), groups = q.shape, scales.shape[1]
        tiles = -(-n // TILE)
        self.q = torch.empty(tiles, k // BLOCK, 256, dtype=torch.uint8)
        self.scales = torch.empty(tiles, groups, TILE, dtype=torch.float16)
        self.zeros = torch.empty(tiles, groups, TILE, dtype=torch.uint8)
        self.bias = None if w.bias is None else w.bias.float().contiguous()
        places = (self.q.data_ptr(), self.scales.data_ptr(), self.zeros.data_ptr())
        self.native = Int4Linear(n, k, k // groups, *places, None if self.bias is None else self.bias.data_ptr())
        self.library, self.outputs, self.inputs, self.order = library, n, k, w.order
        library("hb_pack_int4", byref(self.native), q.data_ptr(), scales.data_ptr(), zeros.data_ptr())

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """[T, K] -> float32 [T, N]."""
        return multiply(self.library, "hb_linear", self.native, x if self.order is None else x[:, self.order])


class PackedInt8:
    """The output embedding [V, D] in bytes of which 7 bits are used, symmetric, a scale for each 32 inputs."""

    def __init__(self, library: Library, weight: torch.Tensor) -> None:
        n, k = weight.shape
        self.library = library
        tiles = -(-n // TILE)
        self.q = torch.empty(tiles, k // BLOCK, 512, dtype=torch.uint8)
        self.scales = torch.empty(tiles, k // BLOCK, TILE)
        self.native = Int8Linear(n, k, self.q.data_ptr(), self.scales.data_ptr())
        for first in range(0, n, ROWS_AT_ONCE):
            rows = weight[first : first + ROWS_AT_ONCE].float().contiguous()
            library("hb_pack_int8", byref(self.native), rows.data_ptr(), first // TILE, -(-len(rows) // TILE))

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """[T, D] -> float32 [T, V]."""
        return multiply(self.library, "hb_head", self.native, x)


def multiply(library: Library, function: str, weight: Int4Linear | Int8Linear, x: torch.Tensor) -> torch.Tensor:
    """[T, K] -> float32 [T, N]."""
    x = x.float().contiguous()
    rows = x.shape[0]  # len(x) takes torch ten times as long
    y = torch.empty(rows, weight.outputs)
    library(function, byref(weight), x.data_ptr(), rows, y.data_ptr())
    return y


def split_rows(w: LinearWeight) -> tuple[LinearWeight, LinearWeight]:
    """The upper and the lower half of a linear's outputs: gate and up."""
    assert isinstance(w.weight, Int4Weight)
    half = w.weight.q.shape[0] // 2
    parts = (slice(half), slice(half, None))
    return tuple(  # type: ignore[return-value]
        type(w)(rows_of(w.weight, part), None if w.bias is None else w.bias[part], w.order) for part in parts
    )
