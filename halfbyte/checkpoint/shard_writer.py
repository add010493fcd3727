"""Writes one safetensors file from tensors that need not all be in memory.

The file: an 8-byte little-endian length, a JSON header of that length, the data. Tensors lie in it by falling width of
their type, then by name, as the safetensors library lays them, so that each begins at a multiple of its width.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from halfbyte.checkpoint.shards import DTYPE_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class Kind:
    """A tensor's type and shape."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """What its data take."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor to be written, and what gives it when its turn has come."""

    kind: Kind
    data: Callable[[], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies in a file: what it begins with, and where each tensor's data begin."""

    header: bytes
    places: dict[str, int]
    size: int


def lay_out(kinds: Mapping[str, Kind]) -> Layout:
    """The layout of a file of these tensors, `places` in their order in it."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    places, begin = {}, 0
    for name in sorted(kinds, key=lambda name: (-kinds[name].dtype.itemsize, name)):
        kind = kinds[name]
        end = begin + kind.nbytes
        header[name] = {"dtype": DTYPE_NAMES[kind.dtype], "shape": list(kind.shape), "data_offsets": [begin, end]}
        places[name], begin = begin, end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    start = len(text).to_bytes(8, "little") + text
    return Layout(start, {name: len(start) + place for name, place in places.items()}, len(start) + begin)


def write_safetensors(path: Path, entries: Mapping[str, Entry]) -> None:
    """Write the file. Raises OSError."""
    layout = lay_out({name: entry.kind for name, entry in entries.items()})
    with path.open("wb") as file:
        file.write(layout.header)
        for name in layout.places:
            tensor, kind = entries[name].data().cpu(), entries[name].kind
            assert Kind(tensor.dtype, tuple(tensor.shape)) == kind
            file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)


def split(kinds: Mapping[str, Kind], most: int) -> list[dict[str, Kind]]:
    """Tensors shared out, in their order, over files of at most so many bytes of data (or of one tensor)."""
    files: list[dict[str, Kind]] = []
    left = 0
    for name, kind in kinds.items():
        if not files or kind.nbytes > left:
            files.append({})
            left = most
        files[-1][name] = kind
        left -= kind.nbytes
    return files
