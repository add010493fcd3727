"""A model in a folder, in Hugging Face form."""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfbyte.checkpoint.fields import parse_json_object
from halfbyte.checkpoint.paths import inside, read_small
from halfbyte.checkpoint.shards import Shard, open_shard
from halfbyte.errors import CheckpointError, ConfigError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch

    from halfbyte.checkpoint.source import TensorInfo

# (single file, index file, shard names), the preferred first
LAYOUTS = (
    ("model.safetensors", "model.safetensors.index.json", re.compile(r"model-(\d+)-of-(\d+)\.safetensors")),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", re.compile(r"pytorch_model-(\d+)-of-(\d+)\.bin")),
)
WEIGHT_SUFFIXES = frozenset(
    {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".msgpack", ".npz", ".ot"}
)
NOTE_SUFFIXES = frozenset({"", ".txt", ".md", ".jinja", ".pdf"})  # what is worth having from subfolders: licences
_MOST_JSON = 200_000_000
_MOST_SIDECAR = 200_000_000
_MOST_NOTE = 10_000_000


class FolderSource:
    """A folder with config.json, safetensors (single or sharded) or pytorch_model*.bin, and small files.

    Opening it reads nothing; what is wrong with it is raised when that part of it is asked for.
    """

    def __init__(self, folder: Path, spec: str | None = None):
        self._folder = folder
        self._spec = str(folder) if spec is None else spec

    @property
    def spec(self) -> str:
        """The source as the user wrote it."""
        return self._spec

    @property
    def folder(self) -> Path | None:
        """The folder."""
        return self._folder

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json. Raises SourceError if it is missing, ConfigError if it is not readable JSON."""
        path = inside(self._folder, "config.json", self._spec)
        if not path.is_file():
            raise SourceError(f"{self._folder} has no config.json, so it is not a model in Hugging Face form")
        return parse_json_object(read_small(path, _MOST_JSON, ConfigError), str(path))

    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor of every shard, from headers alone. Raises CheckpointError for what is damaged or missing."""
        return {name: shard.tensors[name] for name, shard in self._shard_of.items()}

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor."""
        if name not in self._shard_of:
            raise CheckpointError(f"{self._folder}: there is no tensor {name}")
        return self._shard_of[name].read(name)

    def read_part(self, name: str, rows: slice, columns: slice) -> torch.Tensor:
        """A part of a matrix, without reading the rest of it."""
        return self._shard_of[name].read_part(name, rows, columns)

    def release(self) -> None:
        """See Source."""
        for shard in set(self._shard_of.values()):
            shard.release()

    def origin(self, name: str) -> str:
        """The path of the file that holds a tensor."""
        shard = self._shard_of.get(name)
        return str(shard.path if shard else self._folder)

    def files(self) -> list[str]:
        """Small files of the folder, and notes such as licences in its subfolders, sorted."""
        return sorted(_small_files(self._folder))

    def file(self, name: str) -> bytes | None:
        """The contents of a small file. Raises SourceError for a name that leads out of the folder."""
        path = inside(self._folder, name, "the request")
        if path.suffix in WEIGHT_SUFFIXES or not path.is_file():
            return None
        return read_small(path, _MOST_SIDECAR, SourceError)

    @cached_property
    def _shard_of(self) -> dict[str, Shard]:
        for single, index, pattern in LAYOUTS:
            if (self._folder / single).is_file():
                return _merge([self._open(single, str(self._folder))])
            if (self._folder / index).is_file():
                return self._indexed(index)
            if numbered := self._numbered(pattern):
                return _merge([self._open(name, str(self._folder)) for name in numbered])
        lone = [path.name for path in self._folder.glob("*.safetensors")]
        if len(lone) == 1:
            return _merge([self._open(lone[0], str(self._folder))])
        raise self._no_weights(lone)

    def _open(self, name: str, named_by: str) -> Shard:
        return open_shard(inside(self._folder, name, named_by))

    def _indexed(self, index: str) -> dict[str, Shard]:
        path = inside(self._folder, index, self._spec)
        weight_map = parse_json_object(read_small(path, _MOST_JSON, CheckpointError), str(path)).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
            raise CheckpointError(f"{path}: weight_map is missing or does not map tensor names to file names")
        shards = {file: self._open(file, str(path)) for file in sorted(set(weight_map.values()))}
        _check_present(path, shards)
        for name, file in weight_map.items():
            if name not in shards[file].tensors:
                raise CheckpointError(
                    f"{path}: says that {name} is in {file}, but {shards[file].path} does not have it"
                )
        unlisted = {name: shard for shard in shards.values() for name in shard.tensors if name not in weight_map}
        return {name: shards[file] for name, file in weight_map.items()} | unlisted

    def _numbered(self, pattern: re.Pattern[str]) -> list[str]:
        """Shards that lie there without an index; each must say it is of the same set, and the set must be whole."""
        matches = sorted((m for m in map(pattern.fullmatch, os.listdir(self._folder)) if m), key=lambda m: m.string)
        if not matches:
            return []
        totals = {int(m[2]) for m in matches}
        missing = set(range(1, max(totals) + 1)) - {int(m[1]) for m in matches} if max(totals) < 100_000 else {0}
        if len(totals) > 1 or missing or len(matches) != max(totals):
            raise CheckpointError(
                f"{self._folder}: shards without an index must be one whole set, but it has "
                f"{', '.join(m.string for m in matches[:10])}; download what is missing"
            )
        return [m.string for m in matches]

    def _no_weights(self, several: list[str]) -> SourceError:
        if several:
            return SourceError(
                f"{self._folder} holds {', '.join(sorted(several)[:5])} and no index; which one is the model?"
            )
        ggufs = sorted(path.name for path in self._folder.glob("*.gguf"))
        if ggufs:
            return SourceError(f"{self._folder} holds GGUF files; give one of them, e.g. {self._folder / ggufs[0]}")
        return SourceError(f"{self._folder} holds no weights: neither model*.safetensors nor pytorch_model*.bin")


def _merge(shards: Iterable[Shard]) -> dict[str, Shard]:
    shard_of: dict[str, Shard] = {}
    for shard in shards:
        for name in shard.tensors:
            if name in shard_of:
                raise CheckpointError(f"tensor {name} is both in {shard_of[name].path} and in {shard.path}")
            shard_of[name] = shard
    return shard_of


def _check_present(index: Path, shards: Mapping[str, Shard]) -> None:
    missing = [file for file, shard in shards.items() if not shard.path.is_file()]
    if missing:
        listed = ", ".join(missing[:10])
        raise CheckpointError(f"{index}: names files that are not there: {listed}; download them")


def _small_files(folder: Path) -> Iterable[str]:
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith((".", "__"))]
        top = Path(parent) == folder
        for name in names:
            path = Path(parent, name)
            if name.startswith(".") or name.endswith(".index.json") or not _is_small(path, top):
                continue
            relative = path.relative_to(folder).as_posix()
            if _stays_inside(folder, relative):
                yield relative


def _is_small(path: Path, top: bool) -> bool:
    if path.suffix in WEIGHT_SUFFIXES or not (top or path.suffix in NOTE_SUFFIXES) or not path.is_file():
        return False
    return path.stat().st_size <= (_MOST_SIDECAR if top else _MOST_NOTE)


def _stays_inside(folder: Path, name: str) -> bool:
    try:
        inside(folder, name, "")
    except SourceError:
        return False
    return True
