"""Writes a GGUF file that appears whole or not at all, one tensor at a time."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gguf
import numpy as np
from gguf.constants import GGUFValueType

from halfbyte.checkpoint.ggml import row_bytes
from halfbyte.checkpoint.writer import SPARE_BYTES, sync
from halfbyte.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch
    from gguf.constants import GGMLQuantizationType

_SCALARS = {
    str: GGUFValueType.STRING,
    bool: GGUFValueType.BOOL,
    int: GGUFValueType.UINT32,
    float: GGUFValueType.FLOAT32,
}


class Entry(NamedTuple):
    """A tensor that a file will hold, by its GGUF name; shape with the slowest dimension first, as torch has it."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        rows = int(np.prod(self.shape[:-1], dtype=np.int64))
        return rows * row_bytes(self.shape[-1], self.type)


def check_place(out: Path, nbytes: int, *, overwrite: bool) -> None:
    """Raise OutputError if `out` may not be written or its disk has no room."""
    if out.is_dir() or (out.exists() and not overwrite):
        raise OutputError(f"{out} is already there; choose another OUT or pass --overwrite")
    existing = next(p for p in out.absolute().parents if p.exists())
    free = shutil.disk_usage(existing).free
    if free < nbytes + SPARE_BYTES:
        raise OutputError(
            f"{out} needs {(nbytes + SPARE_BYTES) / 1e9:.2f} GB of disk, and {existing} has {free / 1e9:.2f} GB free; "
            "choose an OUT on another disk"
        )


def write_gguf(out: Path, metadata: Mapping[str, Any], entries: Sequence[Entry], data: Iterable[torch.Tensor]) -> None:
    """Write header and tensors beside OUT, sync, and rename into place.

    data: the bytes of each entry (uint8), in their order, taken one at a time. metadata: str, bool, int (uint32),
    float (float32), or a list of one of them (ints as int32), with `general.architecture`.
    """
    part = out.parent / f".{out.name}.part"
    writer = gguf.GGUFWriter(part, str(metadata["general.architecture"]))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for key, value in metadata.items():
            if key != "general.architecture":  # the writer has put it first
                _add(writer, key, value)
        for entry in entries:
            shape = (*entry.shape[:-1], row_bytes(entry.shape[-1], entry.type))
            writer.add_tensor_info(entry.name, shape, np.dtype(np.uint8), entry.nbytes, raw_dtype=entry.type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for entry, tensor in zip(entries, data, strict=True):
            assert tensor.nbytes == entry.nbytes, (entry, tensor.shape)
            writer.write_tensor_data(tensor.numpy())
        writer.close()
        sync(part)
        part.replace(out)
        sync(out.absolute().parent)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        writer.close()
        part.unlink(missing_ok=True)


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        kind = _SCALARS[type(value[0])] if value else GGUFValueType.STRING
        sub_type = GGUFValueType.INT32 if kind is GGUFValueType.UINT32 else kind
        if value:  # an empty array has no type that readers agree on
            writer.add_key_value(key, value, GGUFValueType.ARRAY, sub_type=sub_type)
        return
    kind = _SCALARS[type(value)]
    if kind is GGUFValueType.UINT32 and not 0 <= value < 2**32:
        kind = GGUFValueType.INT64
    writer.add_key_value(key, value, kind)
