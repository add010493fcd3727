"""Weight files in a folder: what each holds, from headers alone, and one tensor at a time.

A safetensors file is an 8-byte little-endian length, a JSON header of that length mapping each tensor to its dtype,
shape and [begin, end) within the rest, and the data. A `.bin` file is a pickled dict of tensors, read with
weights_only and memory-mapped, so that a tensor's data is touched when it is used.
"""

from __future__ import annotations

import json
import math
import pickle
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from halfbyte.checkpoint.source import TensorInfo
from halfbyte.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MOST_HEADER = 100_000_000  # the limit that the safetensors library sets itself

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class Shard(Protocol):
    """One file of weights."""

    path: Path

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """What the file holds."""

    def read(self, name: str) -> torch.Tensor:
        """One tensor of it. Raises CheckpointError."""

    def read_part(self, name: str, rows: slice, columns: slice) -> torch.Tensor:
        """A part of a matrix, without reading the rest of it. Raises CheckpointError."""

    def release(self) -> None:
        """Give back what reading has mapped."""


def open_shard(path: Path) -> Shard:
    """The reader for a weight file, by its name."""
    return SafetensorsShard(path) if path.suffix == ".safetensors" else PickleShard(path)


class SafetensorsShard:
    """A .safetensors file."""

    def __init__(self, path: Path):
        self.path = path

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """What the header says, checked against the size of the file."""
        header, data_size = _read_header(self.path)
        header.pop("__metadata__", None)
        return {name: _tensor_info(self.path, name, entry, data_size) for name, entry in header.items()}

    def read(self, name: str) -> torch.Tensor:
        """One tensor, read through the safetensors library."""
        try:
            return self._handle.get_tensor(name)  # type: ignore[no-any-return]
        except (SafetensorError, OSError, RuntimeError) as error:
            raise CheckpointError(f"{self.path}: tensor {name} cannot be read: {error}") from error

    def read_part(self, name: str, rows: slice, columns: slice) -> torch.Tensor:
        """See Shard."""
        try:
            return self._handle.get_slice(name)[rows, columns]  # type: ignore[no-any-return]
        except (SafetensorError, OSError, RuntimeError) as error:
            raise CheckpointError(f"{self.path}: tensor {name} cannot be read: {error}") from error

    def release(self) -> None:
        """See Shard."""
        self.__dict__.pop("_handle", None)

    def places(self) -> dict[str, int]:
        """Where in the file each tensor's data begin."""
        header, data_size = _read_header(self.path)
        header.pop("__metadata__", None)
        begin = self.path.stat().st_size - data_size
        return {name: begin + int(entry["data_offsets"][0]) for name, entry in header.items()}

    @cached_property
    def _handle(self) -> Any:
        return safe_open(self.path, framework="pt")


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The parsed header, and the number of data bytes behind it."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8:
                raise CheckpointError(f"{path}: {size} bytes, too short for a safetensors file; download it again")
            if length > _MOST_HEADER:
                raise CheckpointError(f"{path}: not a safetensors file (its header would be {length} bytes)")
            if 8 + length > size:
                raise _truncated(path, 8 + length, size)
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        header = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged safetensors header: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: damaged safetensors header: not a JSON object")
    return header, size - 8 - length


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name occurs twice")
    return values


def _tensor_info(path: Path, name: str, entry: Any, data_size: int) -> TensorInfo:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        sound = isinstance(dtype, str) and all(type(v) is int and v >= 0 for v in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        sound = False
    if not sound:
        raise CheckpointError(f"{path}: damaged safetensors header: the entry of {name} makes no sense")
    if dtype not in _DTYPES:
        raise CheckpointError(
            f"{path}: {name} is of type {dtype!r}, which is not known; known are {', '.join(_DTYPES)}"
        )
    if end > data_size:
        size = path.stat().st_size
        raise _truncated(path, size - data_size + end, size)
    nbytes = math.prod(shape) * _DTYPES[dtype].itemsize
    if end - begin != nbytes:
        raise CheckpointError(f"{path}: {name} takes {end - begin} bytes, but its shape {list(shape)} needs {nbytes}")
    return TensorInfo(_DTYPES[dtype], shape, nbytes)


def _truncated(path: Path, expected: int, found: int) -> CheckpointError:
    return CheckpointError(
        f"{path}: truncated: its header says at least {expected} bytes, but the file has {found}; download it again"
    )


class PickleShard:
    """A pytorch_model*.bin file."""

    def __init__(self, path: Path):
        self.path = path

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """What the pickle holds; values that are not tensors are left out."""
        return {name: TensorInfo(t.dtype, tuple(t.shape), t.numel() * t.itemsize) for name, t in self._state.items()}

    def read(self, name: str) -> torch.Tensor:
        """One tensor, mapped from the file."""
        return self._state[name]

    def read_part(self, name: str, rows: slice, columns: slice) -> torch.Tensor:
        """See Shard."""
        return self._state[name][rows, columns].contiguous()

    def release(self) -> None:
        """See Shard."""
        _ = self.tensors  # what the file holds is known without the mapping from here on
        self.__dict__.pop("_state", None)

    @cached_property
    def _state(self) -> dict[str, torch.Tensor]:
        state = _load_pickle(self.path)
        if not isinstance(state, dict):
            raise CheckpointError(f"{self.path}: holds a {type(state).__name__}, not a dict of tensors")
        tensors = {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
        if state and not tensors:
            keys = ", ".join(str(key) for key in list(state)[:5])
            raise CheckpointError(f"{self.path}: holds no tensors at its top level (its keys are {keys})")
        return tensors


def _load_pickle(path: Path) -> Any:
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=True)  # the format before torch 1.6
    except pickle.UnpicklingError as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(
            f"{path}: refused: loading this pickle would do more than read tensors ({reason}). "
            "Get the model as safetensors, or convert it where you trust it"
        ) from error
    except Exception as error:  # torch raises RuntimeError, EOFError, OSError, KeyError, ... for damaged files
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(
            f"{path}: cannot be read, it is damaged or truncated: {reason}; download it again"
        ) from error
