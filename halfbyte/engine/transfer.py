"""Between this process's memory and the device's, without waiting for what the device is at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

ALIGNMENT = 64  # bytes: kernels are compiled for how their arguments lie


def upload(arrays: Sequence[np.ndarray], device: torch.device) -> list[torch.Tensor]:
    """Arrays on a device, by one copy. On the CPU they are the arrays themselves, which are not to be changed."""
    if device.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    return unpack(pack(arrays, pinned=True).to(device, non_blocking=True), arrays)


def pack(arrays: Sequence[np.ndarray], *, pinned: bool) -> torch.Tensor:
    """All in one buffer of bytes. torch keeps pinned memory from being used again before copies from it are done."""
    buffer = torch.empty(sum(map(_room, arrays)), dtype=torch.uint8, pin_memory=pinned)
    for array, part in zip(arrays, unpack(buffer, arrays), strict=True):
        part.numpy()[...] = array
    return buffer


def unpack(buffer: torch.Tensor, like: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """The parts of what `pack` made, of the same types and shapes, wherever it lies."""
    parts, begin = [], 0
    for array in like:
        part = buffer[begin : begin + array.nbytes]
        parts.append(part.view(_TYPES[array.dtype.name]).view(array.shape))
        begin += _room(array)
    return parts


class Download:
    """A device's tensor on its way here."""

    def __init__(self, tensor: torch.Tensor) -> None:
        """What is behind this on the device's queue does not hold it up."""
        self._here, self._arrival = tensor, None
        if tensor.device.type == "cuda":
            self._here = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._here.copy_(tensor, non_blocking=True)
            self._arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrival.record()

    def read(self) -> np.ndarray:
        """Wait for it."""
        if self._arrival is not None:
            self._arrival.synchronize()
        array: np.ndarray = self._here.numpy()
        return array


_TYPES = {"int32": torch.int32, "int64": torch.int64, "float64": torch.float64}


def _room(array: np.ndarray) -> int:
    return -(-array.nbytes // ALIGNMENT) * ALIGNMENT
