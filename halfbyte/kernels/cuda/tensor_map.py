"""Descriptions of matrices from which Hopper's copy engine fetches boxes."""

from __future__ import annotations

import ctypes
from ctypes import c_uint32, c_uint64, c_void_p
from typing import TYPE_CHECKING

from halfbyte.kernels.cuda.launch import check, driver

if TYPE_CHECKING:
    import torch

UINT64, FLOAT16, NO_SWIZZLE, SWIZZLE_128B, PROMOTE_TO_256B = 4, 6, 0, 3, 3  # CU_TENSOR_MAP_…
BYTES, ALIGNED = 128, 64


class TensorMap:
    """A launch argument: where a matrix lies and what of it is fetched at once. Outside of it there are zeros.

    It holds an address, not the matrix: whoever launches sees to it that there is one.
    """

    def __init__(self, address: int, kind: int, shape: tuple[int, int], box: tuple[int, int], swizzle: int) -> None:
        """shape, box: rows and columns; a matrix's rows lie one behind the other, a multiple of 16 bytes each."""
        self._held = ctypes.create_string_buffer(BYTES + ALIGNED)
        self.address = -(-ctypes.addressof(self._held) // ALIGNED) * ALIGNED
        width = shape[1] * (8 if kind == UINT64 else 2)
        check(
            driver().cuTensorMapEncodeTiled(
                c_void_p(self.address), kind, c_uint32(2), c_void_p(address), (c_uint64 * 2)(*reversed(shape)),
                (c_uint64 * 1)(width), (c_uint32 * 2)(*reversed(box)), (c_uint32 * 2)(1, 1), 0, swizzle,
                PROMOTE_TO_256B, 0,
            )
        )  # fmt: skip


def bytes_map(data: torch.Tensor, rows: int, width: int) -> TensorMap:
    """Boxes of rows x width bytes of a contiguous uint8 matrix, whose own width and this one are multiples of 16."""
    return TensorMap(data.data_ptr(), UINT64, (data.shape[0], data.shape[1] // 8), (rows, width // 8), NO_SWIZZLE)
