"""What was unpacked into the cache, with the hash of every file, so that a later load can tell that nothing changed."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from halfbyte.checkpoint.paths import is_plain_relative
from halfbyte.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

_NAME = "receipt.json"


@dataclass(frozen=True, slots=True)
class Stamp:
    """A file's hash, and what the file system said of it when the hash was taken.

    While the latter is unchanged the file is taken to be unchanged, and is not hashed again.
    """

    sha256: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one wheel gave. `model` is the GGUF file, or the folder, within `model/`; `files` are relative to it too."""

    wheel: str
    wheel_sha256: str
    model: str
    files: dict[str, Stamp]

    @classmethod
    def read(cls, place: Path) -> Receipt:
        """Raises SourceError if the receipt is damaged."""
        path = place / _NAME
        try:
            raw = json.loads(path.read_bytes())
            files = {str(name): Stamp(**stamp) for name, stamp in raw["files"].items()}
            receipt = cls(str(raw["wheel"]), str(raw["wheel_sha256"]), str(raw["model"]), files)
            if not any(name == receipt.model or name.startswith(f"{receipt.model}/") for name in files):
                raise ValueError("the model is not among the files")
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise SourceError(f"{path}: damaged; remove {place} and run again to fetch it anew") from error
        if not all(map(is_plain_relative, [*receipt.files, receipt.model])):
            raise SourceError(f"{path}: names a file outside its folder; remove {place} and run again")
        return receipt

    def write(self, place: Path) -> None:
        """Write the receipt whole or not at all."""
        scratch = place / f".{_NAME}.{os.getpid()}"
        with scratch.open("w") as file:
            json.dump(asdict(self), file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(place / _NAME)

    def check_files(self, place: Path) -> None:
        """Hold every file against its hash, reading only those that the file system says were touched.

        Raises SourceError naming file, expected and found.
        """
        fresh = {name: _checked(place, name, stamp) for name, stamp in self.files.items()}
        if fresh != self.files:
            try:
                Receipt(self.wheel, self.wheel_sha256, self.model, fresh).write(place)
            except OSError:  # a read-only cache only costs the next load the same hashing
                return


def stamp_of(path: Path, sha256: str) -> Stamp:
    """A stamp of a file as it is now."""
    stat = path.stat()
    return Stamp(sha256, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def hash_file(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked(place: Path, name: str, stamp: Stamp) -> Stamp:
    path = place / "model" / name
    again = f"remove {place} and run again to fetch it anew"
    if not path.is_file():
        raise SourceError(f"{path}: was unpacked there, but is gone; {again}")
    now = stamp_of(path, stamp.sha256)
    if now == stamp:
        return stamp
    found = hash_file(path)
    if found != stamp.sha256:
        raise SourceError(
            f"{path}: has changed since it was fetched: sha256 is {found}, expected {stamp.sha256}; "
            f"it is not used; {again}"
        )
    return now
