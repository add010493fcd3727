"""The header of a GGUF file, read with every length checked against the file before it is believed.

Layout (little-endian): magic "GGUF", uint32 version, uint64 tensor count, uint64 key count; the keys, each a string,
a uint32 value type and a value; the tensors, each a string, uint32 dimension count, uint64 dimensions (the fastest
first), uint32 type, uint64 offset; padding to `general.alignment`; the data. A string is a uint64 length and bytes;
an array is a uint32 element type, a uint64 length and the elements.

The gguf package's own reader believes the lengths it finds, so that a damaged one costs it all memory; this one is
run first.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from halfbyte.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

# value type -> numpy's little-endian name
_SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4
_LONGEST_NAME = 255  # bytes; llama.cpp's tensors have at most 63, and no program writes keys as long
_DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """Where a tensor lies. `shape` has the slowest dimension first, as torch writes it."""

    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int  # from the start of the file
    nbytes: int


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """The metadata, with arrays of numbers as numpy arrays, and the tensors by name."""

    metadata: dict[str, Any]
    tensors: dict[str, GGUFTensor]


def read_header(path: Path, data: npt.NDArray[np.uint8]) -> GGUFHeader:
    """Read the header of a mapped file. Raises CheckpointError naming the file, never anything else."""
    cursor = _Cursor(path, data)
    if cursor.take(4) != b"GGUF":
        raise CheckpointError(f"{path}: not a GGUF file")
    version = cursor.unpack("<I")
    if version not in {2, 3}:
        swapped = " (or it is big-endian)" if version & 0xFFFF == 0 else ""
        raise CheckpointError(f"{path}: GGUF version {version}{swapped} cannot be read; versions 2 and 3 can")
    tensor_count, key_count = cursor.unpack("<Q"), cursor.unpack("<Q")
    cursor.place = "the metadata"
    metadata: dict[str, Any] = {}
    for n in range(cursor.count(key_count, 13)):
        cursor.place = f"the name of key {n + 1} of {key_count}"
        key = cursor.name()
        if key in metadata:
            raise cursor.damaged(f"{key} occurs twice")
        cursor.place = key
        metadata[key] = cursor.value(cursor.unpack("<I"))
    cursor.place = "the list of tensors"
    entries: dict[str, _Entry] = {}
    for n in range(cursor.count(tensor_count, 24)):
        cursor.place = f"the name of tensor {n + 1} of {tensor_count}"
        name = cursor.name()
        if name in entries:
            raise cursor.damaged(f"{name} occurs twice")
        cursor.place = f"tensor {name}"
        entries[name] = _read_entry(cursor, name)
    cursor.place = "general.alignment"
    start = _data_start(cursor, metadata)
    return GGUFHeader(metadata, {name: _place(path, entry, start, len(data)) for name, entry in entries.items()})


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


class _Cursor:
    def __init__(self, path: Path, data: npt.NDArray[np.uint8]):
        self.path, self.data, self.offset = path, data, 0
        self.place = "the first bytes"  # what is being read, for messages

    def damaged(self, problem: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: damaged GGUF header near byte {self.offset}, at {self.place}: {problem}")

    def take(self, n: int) -> bytes:
        end = self.offset + n
        if end > len(self.data):
            raise CheckpointError(
                f"{self.path}: truncated or damaged at {self.place}: its header reaches to byte {end}, but the file "
                f"has {len(self.data)}; download it again"
            )
        part = self.data[self.offset : end].tobytes()
        self.offset = end
        return part

    def unpack(self, form: str) -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def count(self, n: int, least_size: int) -> int:
        """A number of things of at least `least_size` bytes each, believed only if the file can hold so many."""
        if n * least_size > len(self.data) - self.offset:
            raise CheckpointError(
                f"{self.path}: truncated or damaged at {self.place}: its header announces {n} entries, more than fit "
                f"in the {len(self.data) - self.offset} bytes that follow; download it again"
            )
        return n

    def name(self) -> str:
        """A name that messages can show as it is."""
        length = self.unpack("<Q")
        if length > _LONGEST_NAME:
            raise self.damaged(f"it has {length} bytes, and names have at most {_LONGEST_NAME}")
        name = self.text(length)
        if not name.isprintable():
            raise self.damaged(f"{name!r} is not a name")
        return name

    def string(self) -> str:
        return self.text(self.count(self.unpack("<Q"), 1))

    def text(self, length: int) -> str:
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.damaged(f"a string is not UTF-8 ({error.reason})") from error

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array(self.unpack("<I"), self.unpack("<Q"))
        return self.numbers(kind, 1)[0].item()

    def array(self, kind: int, length: int) -> Any:
        if kind == _ARRAY:
            raise self.damaged("arrays of arrays are not used by any model")
        if kind == _STRING:
            return [self.string() for _ in range(self.count(length, 8))]
        return self.numbers(kind, length)

    def numbers(self, kind: int, length: int) -> npt.NDArray[Any]:
        if kind not in _SCALARS:
            raise self.damaged(f"value type {kind} is not known")
        dtype = np.dtype(_SCALARS[kind])
        raw = self.take(self.count(length, dtype.itemsize) * dtype.itemsize)
        return np.frombuffer(raw, "u1") != 0 if dtype == np.bool_ else np.frombuffer(raw, dtype)


def _read_entry(cursor: _Cursor, name: str) -> _Entry:
    dimensions = cursor.unpack("<I")
    if dimensions > _MOST_DIMENSIONS:
        raise cursor.damaged(f"it has {dimensions} dimensions; at most {_MOST_DIMENSIONS} are known")
    shape = tuple(cursor.unpack("<Q") for _ in range(dimensions))[::-1]
    return _Entry(name, shape, cursor.unpack("<I"), cursor.unpack("<Q"))


def _data_start(cursor: _Cursor, metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        raise cursor.damaged(f"general.alignment is {alignment!r:.60}, not a power of two")
    return -(-cursor.offset // alignment) * alignment


def _place(path: Path, entry: _Entry, start: int, size: int) -> GGUFTensor:
    kind = _tensor_type(path, entry)
    nbytes = _nbytes(path, entry, kind)
    end = start + entry.offset + nbytes
    if end > size:
        raise CheckpointError(
            f"{path}: truncated: tensor {entry.name} {list(entry.shape)} of type {kind.name} reaches to byte {end}, "
            f"but the file has {size}; download it again"
        )
    return GGUFTensor(entry.name, kind, entry.shape, start + entry.offset, nbytes)


def _tensor_type(path: Path, entry: _Entry) -> GGMLQuantizationType:
    try:
        return GGMLQuantizationType(entry.type)
    except ValueError as error:
        raise CheckpointError(
            f"{path}: tensor {entry.name} is of GGUF type {entry.type}, which this version of the gguf package "
            "does not know; `pip install -U gguf` may help"
        ) from error


def _nbytes(path: Path, entry: _Entry, kind: GGMLQuantizationType) -> int:
    block, block_bytes = GGML_QUANT_SIZES[kind]
    row = entry.shape[-1] if entry.shape else 1
    if row % block:
        raise CheckpointError(f"{path}: tensor {entry.name} has rows of {row}, not a multiple of {kind.name}'s {block}")
    nbytes: int = math.prod(entry.shape) // block * block_bytes
    return nbytes
