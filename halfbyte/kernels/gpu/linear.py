"""One linear on a GPU: a stream of weights for few tokens, a matrix product for many."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

from halfbyte.checkpoint.int4 import Int4Weight
from halfbyte.kernels.cuda.compile import compiled
from halfbyte.kernels.cuda.launch import CudaKernel
from halfbyte.kernels.gpu.choices import choices
from halfbyte.kernels.gpu.mode import Mode
from halfbyte.kernels.gpu.tiles import COLUMNS, ROWS, group_of, pack_tiles
from halfbyte.kernels.triton.linear import finish, multiply_floats, multiply_tiles
from halfbyte.kernels.triton.tiles import dequantize_tiles

if TYPE_CHECKING:
    from halfbyte.kernels.cuda.tensor_map import TensorMap
    from halfbyte.kernels.interface import LinearWeight

FEW = 16  # tokens that the weights' stream serves at once
FEWEST = 8  # tokens up to which it is used where there is something better for more (wide.py)
TOGETHER = 256  # tokens of a launch in Triton, which serves any number: its sums take memory
SHARED = 200 * 1024  # bytes of a multiprocessor's shared memory that a block may take
Output = Literal["half", "added", "silu", "float"]
OUTPUTS: dict[Output, int] = {"half": 0, "added": 1, "silu": 2, "float": 3}


@dataclass(frozen=True, slots=True)
class Shape:
    """How a launch of the stream is cut; found by trying on an H200."""

    warps: int
    depth: int
    blocks: int

    @staticmethod
    def of(group: int) -> Shape:
        """For 4-bit groups (0: float16). Not by the number of tokens: sums would be taken in another order."""
        return Shape(16, 2, 1) if group else Shape(8, 3, 2)


class GpuLinear:
    """A weight [N, K] on a device, in tiles of 4 bits or as float16. Rows may be interleaved, see `interleaved`."""

    def __init__(self, w: LinearWeight, device: torch.device, *, gated: bool = False, mode: Mode | None = None) -> None:
        """gated: rows are those of gate, then those of up, and are interleaved by eights. mode: None, the device's."""
        weight, bias = w.weight, w.bias
        self.gated = gated
        self.mode = Mode.of(device) if mode is None else mode
        self.N, self.K = rows_of(w), int((weight.q if isinstance(weight, Int4Weight) else weight).shape[1])
        order = interleaved(self.N) if gated else None
        self.bias = None if bias is None else bias.float().to(device)
        if order is not None and self.bias is not None:
            self.bias = self.bias[order.to(device)]
        self.data, self.group = _on_device(weight, order, device, self.mode.dtype)
        self.maps: dict[int, TensorMap] = {}  # by rows of a tile, see wide.py
        # whether `few` can take it; Triton takes any, but a matrix of floats is cuBLAS's to read
        self.streams = self.K % COLUMNS == 0 and (self.group > 0 or (self.N % ROWS == 0 and not self.mode.portable))

    def sliced(
        self, x: torch.Tensor, out: torch.Tensor, output: Output, norm: torch.Tensor | None = None, eps: float = 0.0
    ) -> None:
        """`few` for any number of tokens, as many at a time as it takes."""
        most = TOGETHER if self.mode.portable else FEW
        for begin in range(0, x.shape[0], most):
            part = slice(begin, begin + most)
            self.few(x[part], out[part], output, norm, eps)

    def few(
        self, x: torch.Tensor, out: torch.Tensor, output: Output, norm: torch.Tensor | None = None, eps: float = 0.0
    ) -> None:
        """x [T <= FEW, K] float16, or with `norm` [K] a float32 stream to be normed first; see stream_linear.cu."""
        if self.mode.portable:
            self.by_triton(x, out, output, norm, eps)
            return
        T = x.shape[0]
        shape = Shape.of(self.group)
        columns = -(-T // 8)
        tiles = -(-self.N // ROWS)
        blocks = min(_multiprocessors(x.device), tiles)
        partial = (-(tiles // -blocks) + shape.warps) * ROWS * 4  # bytes for a token
        units = self.K // max(self.group, COLUMNS)
        # as many as `most` tokens need, for fewer tokens too: sums are taken in the order that chunks give
        most = FEWEST if T <= FEWEST and is_wide(x.device) and not self.mode.fixed else FEW
        fits = SHARED - most * partial
        chunks = next(c for c in range(1, units + 1) if units % c == 0 and _rows(most, self.K // c) <= fits)
        slots = 8 * columns * partial
        kernel = _stream(arch_of(x.device), self.group, columns, shape, norm is not None, OUTPUTS[output])
        kernel(
            blocks, 32 * shape.warps, _rows(T, self.K // chunks) + slots,
            (self.data, self.bias, x, norm, out, T, self.K, self.N, chunks, eps), early=True,
        )  # fmt: skip

    def by_triton(
        self, x: torch.Tensor, out: torch.Tensor, output: Output, norm: torch.Tensor | None = None, eps: float = 0.0
    ) -> None:
        """`few` in Triton: for any shape and any number of tokens."""
        if norm is not None:
            x = F.rms_norm(x, (self.K,), norm, eps)
        x = x.to(self.mode.dtype).contiguous()
        found = choices(x.device)
        cut = found.alone if x.shape[0] == 1 and not self.mode.fixed else found.several
        parts = multiply_tiles(self.data, self.group, x, cut) if self.group else multiply_floats(self.data, x, cut)
        finish(parts, self.bias, out, output)

    def many(self, x: torch.Tensor) -> torch.Tensor:
        """x [T, K] -> [T, N], both of the mode's dtype, rows of a gated weight interleaved."""
        if self.mode.fixed:
            return self._row_by_row(x)
        y = F.linear(x, self.matrix())
        return y if self.bias is None else y.add_(self.bias)

    def floats(self, x: torch.Tensor) -> torch.Tensor:
        """x [T, K] -> float32 [T, N], of more than FEW tokens by way of `many` and so rounded to the mode's dtype."""
        if x.shape[0] > FEW and not self.mode.fixed:
            return self.many(x).float()
        return self._row_by_row(x, torch.float32)

    def _row_by_row(self, x: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """By kernels whose rows do not depend on how many there are, if the mode is fixed."""
        out = torch.empty(x.shape[0], self.N, dtype=dtype or self.mode.dtype, device=x.device)
        output: Output = "half" if dtype is None else "float"
        if self.streams:
            self.sliced(x.contiguous(), out, output)
            return out
        for begin in range(0, x.shape[0], TOGETHER):
            self.by_triton(x[begin : begin + TOGETHER], out[begin : begin + TOGETHER], output)
        return out

    def matrix(self) -> torch.Tensor:
        """[N, K] of the mode's dtype. That of 4-bit weights lies in memory which the next one's takes."""
        if self.group == 0:
            return self.data
        out = _scratch(self.data.device, self.mode.dtype, self.N * self.K).view(self.N, self.K)
        if self.mode.portable:
            dequantize_tiles(self.data, self.group, out)
            return out
        tiles = -(-self.N // ROWS)
        kernel = _dequantize(arch_of(self.data.device), self.group)
        kernel(-(-tiles * self.K // 256), 256, 0, (self.data, out, self.N, self.K))
        return out


def is_wide(device: torch.device) -> bool:
    """Whether the GPU has these products' instructions: those of NVIDIA's compute capability 9 alone."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device)[0] == 9


def rows_of(w: LinearWeight) -> int:
    """N."""
    return int((w.weight.q if isinstance(w.weight, Int4Weight) else w.weight).shape[0])


def interleaved(rows: int) -> torch.Tensor:
    """The order in which 2 F rows lie: 8 of gate, the 8 of up that they belong to, and so on; F a multiple of 8."""
    half = torch.arange(rows // 2).view(-1, 8)
    return torch.cat((half, half + rows // 2), 1).flatten()


def gate_and_up(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Views [T, F / 8, 8] of the two halves of an interleaved [T, 2 F]."""
    gate, up = y.view(y.shape[0], -1, 2, 8).unbind(2)
    return gate, up


def _on_device(
    weight: torch.Tensor | Int4Weight, order: torch.Tensor | None, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, int]:
    if isinstance(weight, Int4Weight):
        q, s, z = (x.to(device) for x in (weight.q, weight.s, weight.z))
        if order is not None:
            q, s, z = (x[order.to(device)] for x in (q, s, z))
        moved = Int4Weight(q, s, z)
        if group_of(moved) is not None and s.dtype == torch.float16:
            tiles = pack_tiles(moved)
            return tiles.data, tiles.group
        return moved.dequantize().to(dtype), 0
    matrix = weight.to(device, dtype)
    return (matrix if order is None else matrix[order.to(device)]).contiguous(), 0


def _rows(tokens: int, columns: int) -> int:
    return tokens * (columns + 32) * 2


@cache
def _stream(arch: str, group: int, columns: int, shape: Shape, norm: bool, output: int) -> CudaKernel:
    defines = {
        "GROUP": group, "NT": columns, "WARPS": shape.warps, "DEPTH": shape.depth, "BLOCKS": shape.blocks,
        "NORM": int(norm), "OUTPUT": output,
    }  # fmt: skip
    return CudaKernel(
        compiled(_source("ptx.cuh") + _source("stream_linear.cu"), defines, arch), "stream_linear", SHARED + 1024
    )


@cache
def _dequantize(arch: str, group: int) -> CudaKernel:
    return CudaKernel(compiled(_source("dequantize_tiles.cu"), {"GROUP": group}, arch), "dequantize_tiles", 0)


@cache
def _source(name: str) -> str:
    return (files("halfbyte.kernels.cuda") / name).read_text()


@cache
def arch_of(device: torch.device) -> str:
    """What NVRTC is to compile for."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


@cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


_SCRATCH: dict[tuple[torch.device, torch.dtype], torch.Tensor] = {}


def _scratch(device: torch.device, dtype: torch.dtype, count: int) -> torch.Tensor:
    held = _SCRATCH.get((device, dtype))
    if held is None or held.numel() < count:
        held = _SCRATCH[device, dtype] = torch.empty(count, dtype=dtype, device=device)
    return held[:count]
