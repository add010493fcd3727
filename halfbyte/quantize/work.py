"""What a run has finished so far, in a hidden folder beside OUT, so that a run that was stopped goes on from there.

    run.json               the options and data that the result depends on
    shard-00000.safetensors  OUT's weight files, of their final size from the start: each tensor goes to its place
    ends.json, block-00007.json  these tensors are in the shards, on disk, with these checksums; a block's report
    state-00007            the hidden states of both streams behind that block, float32
    tuned-00001.safetensors  scales and optimizer after a pass of tuning
    learnt.safetensors     what tuning changes of the shards in the end, and the report of it
    finishing              OUT is about to be put in its place, or has been

Each file but the shards appears whole or not at all, and what is in the shards counts when its record is there. Blocks
behind the last state are walked through again, to the same bits. What tuning has learnt is on disk before a byte of a
finished block is changed, and from then on a run begins with changing them, which may be done twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from halfbyte.checkpoint.writer import sync
from halfbyte.errors import CheckpointError, GateError, OutputError, QuantizeError
from halfbyte.quantize.raw import raw_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from halfbyte.checkpoint.prepared_shards import PreparedShards
    from halfbyte.checkpoint.source import Source
    from halfbyte.quantize.activations import Activations

STATE_EVERY = 60.0  # seconds between two states
STATE_SHARE = 20  # and at least so many times as long as writing one takes
BYTES_AT_ENDS = 2**20  # at both ends of a weight file that tell it from another
FINISHING = "finishing"
ENDS_RECORD = "ends.json"
LEARNT = "learnt.safetensors"
_BLOCK = re.compile(r"block-(\d{5})\.json")
_STATE = re.compile(r"state-(\d{5})")
_TUNED = re.compile(r"tuned-(\d{5})\.safetensors")


class WorkFolder:
    """A context manager: `.OUT.work`, held by one process at a time.

    It is removed at the end, and when the source turns out to be unfit; any other error leaves the finished blocks.
    """

    def __init__(self, out: str | Path) -> None:
        self.out = Path(out)
        self.path = self.out.parent / f".{self.out.name}.work"
        self._over = self.path.with_suffix(".over")  # what it is called while it is removed
        self._last_state, self._state_took = time.monotonic(), 0.0
        self._ours = False  # whether what lies there is of this run
        self.shards: PreparedShards | None = None

    def __enter__(self) -> WorkFolder:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise OutputError(f"{self.path} cannot be made: {error.strerror or error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise OutputError(
                f"{self.out} is being written by another run; wait for it or choose another OUT"
            ) from None
        for left in self.path.glob("*.tmp"):
            left.unlink()
        shutil.rmtree(self._over, ignore_errors=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self.shards is not None:
            self.shards.close()
        useless = isinstance(error, (CheckpointError, QuantizeError)) and not isinstance(error, GateError)
        if kind is None or (useless and self._ours) or not self.blocks():
            self._discard()
        os.close(self._lock)

    def _discard(self) -> None:
        """Remove the folder: at once for another run, which must not take half of it for something to go on from."""
        with contextlib.suppress(OSError):
            self.path.rename(self._over)
        for path in (self._over, self.path):
            shutil.rmtree(path, ignore_errors=True)

    def held(self) -> int:
        """Bytes of disk that an earlier run has taken."""
        return sum(512 * path.stat().st_blocks for path in self.path.glob("*") if path.exists())

    def open(self, fingerprint: dict[str, Any], shards: PreparedShards, layers: int, *, start_anew: bool) -> int:
        """Go on with the shards; returns how many of the blocks an earlier run with the same fingerprint finished.

        Raises QuantizeError, naming what differs, if there is one with another; start_anew removes it instead.
        """
        path = self.path / "run.json"
        try:
            earlier = json.loads(path.read_text()) if path.exists() else None
        except (OSError, ValueError):
            earlier = {}
        if earlier is not None and earlier != fingerprint:
            if not start_anew:
                raise QuantizeError(self._difference(earlier, fingerprint))
            self._remove(path for path in self.path.iterdir())
            earlier = None
        if earlier is None:
            self._write(path, json.dumps(fingerprint, indent=1).encode())
        self._ours = True
        self.shards = shards
        if not shards.open():
            self._remove(self.path / name for name in (ENDS_RECORD, LEARNT))
            self._remove(self.blocks().values())
            self._remove(self.tuned().values())
            sync(self.path)
        return self._verified(layers)

    def blocks(self) -> dict[int, Path]:
        """Records of finished blocks by their number."""
        return self._numbered(_BLOCK)

    def save_block(self, layer: int, tensors: dict[str, torch.Tensor], reports: list[dict[str, Any]]) -> None:
        """Keep a finished block: tensors by their names within it."""
        assert self.shards is not None
        checksums = self.shards.write({f"model.layers.{layer}.{name}": t for name, t in tensors.items()})
        self._record(f"block-{layer:05}.json", {"tensors": checksums, "layers": reports})

    def read_block(self, layer: int) -> dict[str, torch.Tensor]:
        """A finished block's tensors by their names within it."""
        assert self.shards is not None
        prefix = f"model.layers.{layer}."
        names = json.loads(self.blocks()[layer].read_text())["tensors"]
        return {name.removeprefix(prefix): self.shards.read(name) for name in names}

    def reports(self, layer: int) -> list[dict[str, Any]]:
        """A finished block's part of the report."""
        found: list[dict[str, Any]] = json.loads(self.blocks()[layer].read_text())["layers"]
        return found

    @property
    def has_ends(self) -> bool:
        """Whether what lies before and behind the blocks is kept."""
        return (self.path / ENDS_RECORD).exists()

    def record_ends(self, checksums: dict[str, int]) -> None:
        """Keep what lies before and behind the blocks, which was written to the shards."""
        self._record(ENDS_RECORD, {"tensors": checksums})

    def save_learnt(self, tensors: dict[str, torch.Tensor], told: dict[str, Any]) -> None:
        """Keep tensors that are to take the place of others in the shards, and what is to be told of that."""
        self._save(self.path / LEARNT, tensors, {"told": json.dumps(told)})

    def apply_learnt(self) -> dict[str, Any] | None:
        """Put what was learnt into the shards, if anything was; returns what is to be told of that."""
        path = self.path / LEARNT
        if not path.exists():
            return None
        assert self.shards is not None
        with safe_open(path, framework="pt") as file:
            told: dict[str, Any] = json.loads(file.metadata()["told"])
        tensors = load_file(path)
        self.shards.write(tensors)
        self.shards.sync(tensors)
        return told

    def state_due(self) -> bool:
        """Whether the last states kept are old enough to keep others."""
        return time.monotonic() - self._last_state >= max(STATE_EVERY, STATE_SHARE * self._state_took)

    def save_state(self, blocks: int, hidden: Iterable[Activations], samples: int) -> None:
        """Keep the hidden states behind that many blocks, all of which must be saved."""
        started = time.monotonic()
        path = self.path / f"state-{blocks:05}"
        temporary = path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                for stream in hidden:
                    for i in range(samples):
                        file.write(raw_bytes(stream.read(i, i + 1).contiguous().cpu()))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
        temporary.rename(path)
        sync(self.path)
        self._remove(p for i, p in self._numbered(_STATE).items() if i < blocks)
        self._last_state = time.monotonic()
        self._state_took = self._last_state - started

    def load_state(self, hidden: Iterable[Activations], samples: int, shape: tuple[int, int]) -> int:
        """Bring back the latest kept states [samples, *shape] of both streams; returns behind how many blocks."""
        nbytes = 4 * shape[0] * shape[1]
        whole = 2 * samples * nbytes
        states = {blocks: path for blocks, path in self._numbered(_STATE).items() if path.stat().st_size == whole}
        if not states:
            return 0
        blocks = max(states)
        with states[blocks].open("rb") as file:
            for stream in hidden:
                for i in range(samples):
                    values = torch.frombuffer(bytearray(file.read(nbytes)), dtype=torch.float32)
                    stream.write(i, values.view(1, *shape))
        return blocks

    def save_tuned(self, passes: int, tensors: dict[str, torch.Tensor]) -> None:
        """Keep what tuning has learnt after that many passes."""
        self._save(self.path / f"tuned-{passes:05}.safetensors", tensors, {})
        self._remove(p for i, p in self.tuned().items() if i < passes)

    @property
    def finishing(self) -> bool:
        """Whether a run was about to put OUT in its place: what lies there now, if anything, is its own."""
        return (self.path / FINISHING).exists()

    def finish(self) -> None:
        """Say that OUT is about to be put in its place."""
        self._write(self.path / FINISHING, b"")

    def tuned(self) -> dict[int, Path]:
        """What tuning has learnt, by the number of passes."""
        return self._numbered(_TUNED)

    def _numbered(self, pattern: re.Pattern[str]) -> dict[int, Path]:
        return {int(m[1]): path for path in self.path.iterdir() if (m := pattern.fullmatch(path.name))}

    def _save(self, path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        temporary = path.with_suffix(".tmp")
        try:
            save_file(tensors, temporary, metadata=metadata)
            sync(temporary)
            temporary.rename(path)
            sync(self.path)
        except (OSError, SafetensorError) as error:
            raise OutputError(f"{path}: cannot be written: {error}") from error

    def _write(self, path: Path, contents: bytes) -> None:
        temporary = path.with_suffix(".tmp")
        try:
            temporary.write_bytes(contents)
            sync(temporary)
            temporary.rename(path)
            sync(self.path)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in list(paths):
            path.unlink(missing_ok=True)

    def _record(self, name: str, contents: dict[str, Any]) -> None:
        """Say that tensors are in the shards, once they are on disk."""
        assert self.shards is not None
        self.shards.sync(contents["tensors"])
        self._write(self.path / name, json.dumps(contents).encode())

    def _verified(self, layers: int) -> int:
        """The number of blocks that are still as they were recorded; whatever goes beyond them is removed."""
        changed = self._changed_names()
        ends = self._readable(self.path / ENDS_RECORD, changed)
        done, blocks = 0, self.blocks()
        while done in blocks and self._readable(blocks[done], changed):
            done += 1
        if (self.path / LEARNT).exists() and not (ends and done == layers):
            self._remove([self.path / LEARNT, *self.tuned().values()])
            done = 0  # blocks that were changed are none to learn from again
        self._remove([] if ends else [self.path / ENDS_RECORD])
        self._remove(p for i, p in blocks.items() if i >= done)
        self._remove(p for i, p in self._numbered(_STATE).items() if i > done)
        return done

    def _changed_names(self) -> set[str]:
        try:
            with safe_open(self.path / LEARNT, framework="pt") as file:
                return set(file.keys())
        except (SafetensorError, OSError):
            return set()

    def _readable(self, path: Path, changed: set[str]) -> bool:
        assert self.shards is not None
        try:
            checksums: dict[str, int] = json.loads(path.read_text())["tensors"]
        except (OSError, ValueError, LookupError):
            return False
        return all(name in changed or self.shards.holds(name, checksum) for name, checksum in checksums.items())

    def _difference(self, earlier: dict[str, Any], now: dict[str, Any]) -> str:
        keys = [key for key in now if earlier.get(key) != now[key]]
        told = "; ".join(f"{key} was {earlier.get(key, 'unknown')!s:.80} and is now {now[key]!s:.80}" for key in keys)
        return (
            f"{self.out} was begun with other options: {told or 'by another version'}. Run it with the same ones to "
            f"go on, choose another OUT, or pass --overwrite to begin anew ({self.path} is then removed)"
        )


def source_fingerprint(source: Source) -> str:
    """A digest of a source's config, of its tensors' names, types and shapes, and of both ends of its files."""
    digest = hashlib.sha256(json.dumps(source.config, sort_keys=True, default=str).encode())
    for name, info in sorted(source.tensors().items()):
        digest.update(f"{name} {info.dtype} {info.shape}\n".encode())
    for file in sorted({source.origin(name) for name in source.tensors()}):
        path = Path(file)
        if path.is_file():
            size = path.stat().st_size
            with path.open("rb") as opened:
                digest.update(opened.read(BYTES_AT_ENDS))
                opened.seek(max(0, size - BYTES_AT_ENDS))
                digest.update(opened.read(BYTES_AT_ENDS))
            digest.update(str(size).encode())
    return digest.hexdigest()[:16]


def tensor_fingerprint(tensor: torch.Tensor) -> str:
    """A digest of a tensor's bytes."""
    return hashlib.sha256(raw_bytes(tensor.contiguous())).hexdigest()[:16]
