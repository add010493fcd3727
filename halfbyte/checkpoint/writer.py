"""Writes a model repository that appears whole or not at all.

Everything is written into a hidden folder beside OUT, synced, and renamed at the end; config.json, without which
nothing loads the folder, comes last. An interrupted run leaves only the hidden folder, which the next run removes.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfbyte.checkpoint.shard_writer import Entry, Kind, write_safetensors
from halfbyte.errors import OutputError

if TYPE_CHECKING:
    from types import TracebackType

    import torch

SPARE_BYTES = 64 * 2**20  # kept free beyond what the weights need: tokenizer, card, file system


class RepositoryWriter:
    """A context manager: `add` tensors, or `take` whole files of them, then `finish`.

    Leaving it without `finish` removes what was written.
    """

    def __init__(self, out: str | Path, *, max_shard_size: int, overwrite: bool = False) -> None:
        self.out = Path(out)
        self.part = self.out.parent / f".{self.out.name}.part"
        self.max_shard_size = max_shard_size
        self.overwrite = overwrite
        self.shard: dict[str, Entry] = {}
        self.shard_bytes = 0
        self.shards: list[list[str]] = []
        self.total_size = 0

    def check(self, nbytes: int) -> None:
        """Raise OutputError if OUT may not be replaced or its disk has no room for `nbytes`."""
        if self.out.is_file() or (self.out.is_dir() and any(self.out.iterdir()) and not self.overwrite):
            raise OutputError(f"{self.out} already holds something; choose another OUT or pass --overwrite")
        existing = nearest(self.out)
        free = shutil.disk_usage(existing).free
        if free < nbytes + SPARE_BYTES:
            raise OutputError(
                f"{self.out} needs {(nbytes + SPARE_BYTES) / 1e9:.2f} GB of disk, and {existing} has "
                f"{free / 1e9:.2f} GB free; choose an OUT on another disk"
            )

    def __enter__(self) -> RepositoryWriter:
        try:
            shutil.rmtree(self.part, ignore_errors=True)
            self.part.mkdir(parents=True)
        except OSError as error:
            raise OutputError(f"{self.part} cannot be made: {error.strerror or error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.part, ignore_errors=True)

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Add a tensor; a full shard goes to disk at once."""
        kind = Kind(tensor.dtype, tuple(tensor.shape))
        if self.shard and self.shard_bytes + kind.nbytes > self.max_shard_size:
            self._flush()
        self.shard[name] = Entry(kind, lambda: tensor)
        self.shard_bytes += kind.nbytes
        self.total_size += kind.nbytes

    def take(self, path: Path, kinds: dict[str, Kind]) -> None:
        """Make a finished file of weights, on disk already, the next shard; it keeps its own name too."""
        self._flush()
        target = self.part / f"shard-{len(self.shards):05}.safetensors"
        try:
            try:
                os.link(path, target)
            except OSError:  # a file system without second names; a real fault shows again
                shutil.copyfile(path, target)
                sync(target)
        except OSError as error:
            raise OutputError(f"{target}: cannot be written: {error.strerror or error}") from error
        self.shards.append(list(kinds))
        self.total_size += sum(kind.nbytes for kind in kinds.values())

    def finish(self, config: dict[str, Any], files: dict[str, bytes]) -> None:
        """Write the index, the small files and config.json, and put the folder in its place."""
        self._flush()
        names = self._name_shards()
        if len(names) > 1:
            weight_map = {tensor: file for file, tensors in zip(names, self.shards, strict=True) for tensor in tensors}
            index = {"metadata": {"total_size": self.total_size}, "weight_map": dict(sorted(weight_map.items()))}
            self._write("model.safetensors.index.json", json_bytes(index))
        for name, contents in files.items():
            self._write(name, contents)
        self._write("config.json", json_bytes(config))
        for folder, _, _ in os.walk(self.part):
            sync(Path(folder))
        self._replace()

    def _flush(self) -> None:
        if not self.shard:
            return
        path = self.part / f"shard-{len(self.shards):05}.safetensors"
        try:
            write_safetensors(path, self.shard)
            sync(path)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
        self.shards.append(list(self.shard))
        self.shard, self.shard_bytes = {}, 0

    def _name_shards(self) -> list[str]:
        """Rename the shards now that their number is known."""
        count = len(self.shards)
        names = ["model.safetensors"]
        if count > 1:
            names = [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
        for i, name in enumerate(names):
            (self.part / f"shard-{i:05}.safetensors").rename(self.part / name)
        return names

    def _write(self, name: str, contents: bytes) -> None:
        path = self.part / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents)
            sync(path)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error

    def _replace(self) -> None:
        """Rename into place. With --overwrite the old folder is moved aside first and removed last."""
        aside = self.out.parent / f".{self.out.name}.old"
        shutil.rmtree(aside, ignore_errors=True)
        if self.out.exists():
            self.out.rename(aside)
        self.part.rename(self.out)
        sync(self.out.absolute().parent)
        shutil.rmtree(aside, ignore_errors=True)


def nearest(out: Path) -> Path:
    """OUT, or the first of the folders above it that is there."""
    return next(p for p in (out, *out.absolute().parents) if p.exists())


def can_link(out: str | Path) -> bool:
    """Whether a file in OUT's place may have a second name; `RepositoryWriter.take` copies where it may not."""
    try:
        with tempfile.NamedTemporaryFile(dir=nearest(Path(out).absolute().parent), prefix=".halfbyte-") as file:
            second = Path(f"{file.name}-again")
            os.link(file.name, second)
            second.unlink()
    except OSError:
        return False
    return True


def json_bytes(value: dict[str, Any]) -> bytes:
    """A JSON file as people like to read it."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def sync(path: Path) -> None:
    """Flush a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
