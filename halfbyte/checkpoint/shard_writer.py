"""Writes one safetensors file from tensors that need not all be in memory.

The file: an 8-byte little-endian length, a JSON header of that length, the data. Tensors lie in it by falling width of
their type, then by name, as the safetensors library lays them, so that each begins at a multiple of its width.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import torch

from halfbyte.checkpoint.shards import DTYPE_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

AT_ONCE = 2**26  # bytes
ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor's bytes in some file."""

    path: Path
    offset: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor to be written: its type and shape, and where its data are, or what gives it when its turn has come."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    data: Stored | Callable[[], torch.Tensor]

    @property
    def nbytes(self) -> int:
        """What its data take."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_safetensors(path: Path, entries: Mapping[str, Entry]) -> None:
    """Write the file. Raises OSError."""
    order = sorted(entries, key=lambda name: (-entries[name].dtype.itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name in order:
        entry = entries[name]
        end = begin + entry.nbytes
        header[name] = {"dtype": DTYPE_NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            _write_data(file, entries[name])


def _write_data(file: BinaryIO, entry: Entry) -> None:
    if isinstance(entry.data, Stored):
        file.flush()
        with entry.data.path.open("rb") as source:
            _copy(source.fileno(), file.fileno(), entry.data.offset, entry.nbytes)
        file.seek(0, os.SEEK_END)
        return
    tensor = entry.data().cpu()
    assert (tensor.dtype, tuple(tensor.shape)) == (entry.dtype, entry.shape)
    file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)


def _copy(source: int, target: int, offset: int, count: int) -> None:
    """Append bytes of one file to another, inside the kernel where it can."""
    within = hasattr(os, "copy_file_range")
    while count:
        done = 0
        if within:
            try:
                done = os.copy_file_range(source, target, min(count, AT_ONCE), offset)
            except OSError:  # another file system, or one that cannot; a real fault shows again below
                within = False
        if not within:
            done = os.write(target, os.pread(source, min(count, AT_ONCE), offset))
        if done == 0:
            raise OSError(f"the file ended {count} bytes too early")
        offset, count = offset + done, count - done
