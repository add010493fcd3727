"""Products of 4-bit weights with many tokens at once, on Hopper (wide_linear.cu), and the norms before them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

import torch

from halfbyte.kernels.cuda.compile import compiled
from halfbyte.kernels.cuda.launch import CudaKernel
from halfbyte.kernels.cuda.tensor_map import FLOAT16, SWIZZLE_128B, TensorMap, bytes_map

if TYPE_CHECKING:
    from halfbyte.kernels.gpu.linear import GpuLinear

STAGE = 128  # columns of a weight that are fetched together
SHARED = 232448  # bytes of shared memory of a block
TILE_BYTES = {128: 1088, 64: 1152, 32: 1280}  # of 16 rows in a stage
MOST_STAGES = 8
CHUNK = 64  # tokens of every launch where a row's sums must not depend on how many there are
Output = Literal["half", "added", "silu"]
OUTPUTS: dict[Output, int] = {"half": 0, "added": 1, "silu": 2}


@dataclass(frozen=True, slots=True)
class Tile:
    """How a product is cut; see wide_linear.cu. An output tile: `columns` tokens by 64 * height * abreast rows."""

    columns: int
    abreast: int
    height: int = 1

    @property
    def rows(self) -> int:
        """Of an output tile."""
        return 64 * self.height * self.abreast

    @property
    def threads(self) -> int:
        """Of a block."""
        return 128 * (1 + self.abreast)

    def shared(self, group: int, output: Output) -> tuple[int, int]:
        """Stages that fit into shared memory, and the bytes that a block then takes."""
        stage = self.columns * STAGE * 2 + self.rows // 16 * TILE_BYTES[group] + 16
        turned = self.abreast * 32 * {"half": 144, "added": 0, "silu": 80}[output]
        stages = min(MOST_STAGES, (SHARED - turned) // stage)
        return stages, stages * stage + turned

    def defines(self, group: int, output: Output) -> dict[str, int]:
        """What wide_linear.cu is compiled with."""
        return {
            "GROUP": group, "COLUMNS": self.columns, "ABREAST": self.abreast, "HEIGHT": self.height,
            "STAGES": self.shared(group, output)[0], "OUTPUT": OUTPUTS[output],
        }  # fmt: skip

    @staticmethod
    def fixed(N: int) -> Tile:
        """For up to CHUNK tokens, always the same one."""
        return Tile.of(CHUNK, N)

    @staticmethod
    def of(T: int, N: int) -> Tile:
        """For T tokens and N rows; found by trying on an H200."""
        if T <= 64:
            return Tile(32 if T <= 32 else 64, 3 if N >= 16384 else 2)
        if T <= 96:
            return Tile(96, 3 if N >= 8192 else 2)
        if 128 < T <= 192:
            return Tile(96, 3)
        if N < 8192:
            return Tile(128, 2 if T <= 512 else 3)
        return Tile(128, 2 if T <= 128 and N < 16384 else 3)


def takes(linear: GpuLinear, *, silu: bool = False) -> bool:
    """Whether a weight can be multiplied in this way."""
    return linear.group > 0 and linear.K % STAGE == 0 and linear.N % (64 if silu else 16) == 0


def wide_linear(
    linear: GpuLinear, x: torch.Tensor, out: torch.Tensor, output: Output, tile: Tile | None = None
) -> None:
    """x [T, K] float16, columns in the tiles' order. out [T, N] or, for "silu", [T, N / 2] in that order again."""
    T, device = x.shape[0], x.device
    if tile is None:
        tile = Tile.fixed(linear.N) if linear.mode.fixed else Tile.of(T, linear.N)
    parts, flags = _meeting_place(device)
    maps = _weight_map(linear, tile), _activation_map(x.data_ptr(), T, linear.K, tile.columns)
    # As many blocks in every launch, since they all count launches; those of a small product have nothing to do.
    _kernel(linear.group, tile, output)(
        len(flags), tile.threads, tile.shared(linear.group, output)[1],
        (*maps, linear.bias, out, parts, flags, T, linear.K, linear.N), early=True,
    )  # fmt: skip


def _weight_map(linear: GpuLinear, tile: Tile) -> TensorMap:
    if tile.rows not in linear.maps:
        linear.maps[tile.rows] = bytes_map(linear.data, tile.rows // 16, TILE_BYTES[linear.group])
    return linear.maps[tile.rows]


@lru_cache(maxsize=8192)
def _activation_map(address: int, T: int, K: int, rows: int) -> TensorMap:
    return TensorMap(address, FLOAT16, (T, K), (rows, 64), SWIZZLE_128B)


def norm_rows(stream: torch.Tensor, norm: torch.Tensor, eps: float) -> torch.Tensor:
    """RMS norm of float32 [T, K], K a multiple of 64, to float16 with columns in the tiles' order."""
    T, K = stream.shape
    out = torch.empty(T, K, dtype=torch.float16, device=stream.device)
    _norm(-(-K // 1024))(T, 256, 0, (stream, norm, out, K, eps), early=True)
    return out


def in_tiles_order(x: torch.Tensor) -> torch.Tensor:
    """[T, K], K a multiple of 32, with its columns in the tiles' order."""
    # column 16 j + 8 u + 2 t + e of 32 lies at 8 t + 4 j + 2 u + e
    return x.view(len(x), -1, 2, 2, 4, 2).permute(0, 1, 4, 2, 3, 5).reshape(len(x), -1)


@cache
def _kernel(group: int, tile: Tile, output: Output) -> CudaKernel:
    cubin = compiled(_source("wide_linear.cu"), tile.defines(group, output), "sm_90a")
    return CudaKernel(cubin, "wide_linear", SHARED)


@cache
def _norm(vectors: int) -> CudaKernel:
    return CudaKernel(compiled(_source("norm_rows.cu"), {"VECTORS": vectors}, "sm_90a"), "norm_rows", 0)


@cache
def _source(name: str) -> str:
    return (files("halfbyte.kernels.cuda") / name).read_text()


@cache
def _meeting_place(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Where blocks that share a tile leave sums and flags; one launch at a time uses it."""
    blocks = torch.cuda.get_device_properties(device).multi_processor_count
    parts = torch.empty(blocks, 2, 2 * 128 * 128, dtype=torch.float32, device=device)
    return parts, torch.zeros(blocks, 2, 4, dtype=torch.int32, device=device)
