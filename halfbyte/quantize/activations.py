"""Activations of all calibration samples: in memory as long as they fit a budget, else in a file.

What lies in a file is read and written by plain system calls: a mapped file would count as the process's own memory.
Both hold the same float32 numbers, so that the result does not depend on the budget.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Protocol

import torch

from halfbyte.errors import OutputError
from halfbyte.quantize.raw import raw_bytes

if TYPE_CHECKING:
    from pathlib import Path


class Activations(Protocol):
    """Float32 [samples, length, width], a range of samples at a time."""

    def read(self, begin: int, end: int) -> torch.Tensor:
        """[end - begin, length, width], not to be written to."""

    def write(self, begin: int, values: torch.Tensor) -> None:
        """Put [n, length, width] in the place of the samples from `begin` on."""

    def close(self) -> None:
        """Give the room back."""


class ActivationStore:
    """Makes activations of `samples` samples of `length` tokens on a device, in memory up to `budget` bytes."""

    def __init__(self, samples: int, length: int, budget: int, folder: Path, device: torch.device) -> None:
        self.samples, self.length, self.folder, self.device = samples, length, folder, device
        self.left = budget
        self.spilled = 0  # bytes in files, at most so far
        self.closed: list[torch.Tensor] = []  # what closed activations lay in: the next ones need no new pages

    def new(self, width: int) -> Activations:
        """Activations whose contents are not set yet."""
        count = self.samples * self.length * width
        fitting = next((i for i, room in enumerate(self.closed) if room.numel() >= count), None)
        if fitting is not None:
            return _InMemory(self, width, self.closed.pop(fitting))
        self.release()
        if 4 * count > self.left:
            self.spilled += 4 * count
            return _InFile(self, width)
        self.left -= 4 * count
        return _InMemory(self, width, torch.empty(count, device=self.device))

    def release(self) -> None:
        """Give back the room of what was closed."""
        self.left += sum(4 * room.numel() for room in self.closed)
        self.closed.clear()


class _InMemory:
    def __init__(self, store: ActivationStore, width: int, room: torch.Tensor) -> None:
        self.store, self.room = store, room
        shape = store.samples, store.length, width
        self.values = room[: math.prod(shape)].view(shape)

    def read(self, begin: int, end: int) -> torch.Tensor:
        return self.values[begin:end]

    def write(self, begin: int, values: torch.Tensor) -> None:
        self.values[begin : begin + len(values)] = values.view(len(values), *self.values.shape[1:])

    def close(self) -> None:
        self.store.closed.append(self.room)
        del self.values, self.room


class _InFile:
    def __init__(self, store: ActivationStore, width: int) -> None:
        self.shape, self.device = (store.length, width), store.device
        self.sample_bytes = 4 * store.length * width
        path = store.folder / f"activations-{os.getpid()}-{id(self):x}"
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        path.unlink()  # the descriptor keeps it; nothing is left behind whatever happens
        self.path = path

    def read(self, begin: int, end: int) -> torch.Tensor:
        values = torch.empty(end - begin, *self.shape)
        view, at = raw_bytes(values), begin * self.sample_bytes
        while view:
            got = os.preadv(self.file, [view], at)
            assert got > 0, "read before it was written"
            view, at = view[got:], at + got
        return values.to(self.device)

    def write(self, begin: int, values: torch.Tensor) -> None:
        view = raw_bytes(values.contiguous().cpu())
        at = begin * self.sample_bytes
        try:
            while view:
                done = os.pwritev(self.file, [view], at)
                view, at = view[done:], at + done
        except OSError as error:
            raise OutputError(f"{self.path}: activations cannot be written: {error.strerror}") from error

    def close(self) -> None:
        os.close(self.file)
