"""Weight files that are as large as they will be before any tensor is known, for tensors that come in any order.

Names, types and shapes are known beforehand, so the header is written first and each tensor goes straight to its place:
nothing is copied together at the end, and no byte is on the disk twice.
"""

from __future__ import annotations

import ctypes
import errno
import os
import zlib
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch

from halfbyte.checkpoint.shard_writer import Kind, Layout, lay_out, split
from halfbyte.errors import CheckpointError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

CANNOT = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # what a file system without preallocation answers
sync_data = getattr(os, "fdatasync", os.fsync)


class PreparedShards:
    """The files of a repository's tensors, in a folder. `kinds`: in the order in which files are filled."""

    def __init__(self, folder: Path, kinds: Mapping[str, Kind], max_shard_size: int) -> None:
        self.kinds = dict(kinds)
        self.shards = split(kinds, max_shard_size)
        self.paths = [folder / f"shard-{i:05}.safetensors" for i in range(len(self.shards))]
        self.layouts = [lay_out(shard) for shard in self.shards]
        self.number = {name: i for i, shard in enumerate(self.shards) for name in shard}
        self.files: list[int] = []
        self._open = ExitStack()

    def open(self) -> bool:
        """Open the files; whether all were there, so that they hold what was written to them. Else they are made."""
        there = all(_holds(path, layout) for path, layout in zip(self.paths, self.layouts, strict=True))
        for path, layout in zip(self.paths, self.layouts, strict=True):
            try:
                if not there:
                    _make(path, layout)
                self.files.append(os.open(path, os.O_RDWR))
            except OSError as error:
                raise OutputError(
                    f"{path}: {layout.size / 1e9:.2f} GB cannot be made: {error.strerror or error}"
                ) from error
            self._open.callback(os.close, self.files[-1])
        return there

    def close(self) -> None:
        """Close the files."""
        self._open.close()
        self.files = []

    def write(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
        """Put tensors in their places; returns their checksums. They are on disk after the next `sync`."""
        return {name: self._write(name, tensor.cpu().contiguous()) for name, tensor in tensors.items()}

    def sync(self, names: Iterable[str]) -> None:
        """Wait until what was written of these tensors is on disk."""
        for number in sorted({self.number[name] for name in names}):
            try:
                sync_data(self.files[number])
            except OSError as error:
                raise OutputError(f"{self.paths[number]}: cannot be written: {error.strerror}") from error

    def read(self, name: str) -> torch.Tensor:
        """A tensor that was written. Raises CheckpointError."""
        kind, number = self.kinds[name], self.number[name]
        data = torch.empty(kind.nbytes, dtype=torch.uint8)
        view, at = data.numpy().data, self.layouts[number].places[name]
        try:
            while view:
                got = os.preadv(self.files[number], [view], at)
                if got == 0:
                    raise CheckpointError(f"{self.paths[number]}: ends within {name}")
                view, at = view[got:], at + got
        except OSError as error:
            raise CheckpointError(f"{self.paths[number]}: {name} cannot be read: {error.strerror}") from error
        return data.view(kind.dtype).view(kind.shape)

    def holds(self, name: str, checksum: int) -> bool:
        """Whether a tensor's data are those that had this checksum."""
        try:
            return name in self.kinds and _checksum(self.read(name)) == checksum
        except CheckpointError:
            return False

    def _write(self, name: str, tensor: torch.Tensor) -> int:
        number = self.number[name]
        assert Kind(tensor.dtype, tuple(tensor.shape)) == self.kinds[name], (name, tensor.dtype, tensor.shape)
        view, at = _bytes(tensor), self.layouts[number].places[name]
        try:
            while view:
                done = os.pwrite(self.files[number], view, at)
                view, at = view[done:], at + done
        except OSError as error:
            raise OutputError(f"{self.paths[number]}: {name} cannot be written: {error.strerror}") from error
        return _checksum(tensor)


def _holds(path: Path, layout: Layout) -> bool:
    try:
        with path.open("rb") as file:
            return path.stat().st_size == layout.size and file.read(len(layout.header)) == layout.header
    except OSError:
        return False


def _make(path: Path, layout: Layout) -> None:
    """A file of the whole size, which appears with its header or not at all."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(layout.header)
        file.flush()
        _allocate(file.fileno(), layout.size)
        os.fsync(file.fileno())
    temporary.rename(path)


def _allocate(file: int, size: int) -> None:
    """Take the room now, so that a disk which is too small is noticed now."""
    os.truncate(file, size)
    failed = fallocate(file, size)
    if failed not in (0, *CANNOT):
        raise OSError(failed, os.strerror(failed))


def fallocate(file: int, size: int) -> int:
    """Linux's call, which takes the room at once or says that it cannot; posix_fallocate then writes every page.

    Returns an error number, 0 for none.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if call is None:
        return errno.ENOSYS
    done = call(ctypes.c_int(file), ctypes.c_int(0), ctypes.c_int64(0), ctypes.c_int64(size))
    return ctypes.get_errno() if done else 0


def _bytes(tensor: torch.Tensor) -> memoryview:
    view: memoryview = tensor.view(-1).view(torch.uint8).numpy().data
    return view


def _checksum(tensor: torch.Tensor) -> int:
    return zlib.crc32(_bytes(tensor))
