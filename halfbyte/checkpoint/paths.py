"""Names that come from a file must stay inside the folder that they are about."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from halfbyte.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable


def is_plain_relative(name: str) -> bool:
    """Whether a name is a relative path without `..`, in forward slashes, meaning the same on every system."""
    if not name or "\\" in name or "\0" in name or ":" in name or name.startswith("/"):
        return False
    return all(part not in {"", ".", ".."} for part in name.split("/"))


def inside(folder: Path, name: str, named_by: str) -> Path:
    """The path of `name` in `folder`. `named_by` says who asks for it, for the message.

    A symbolic link may point within the folder, or, in a Hub cache, from a snapshot to that repository's blobs.
    Raises SourceError for a name or a link that leads out.
    """
    if not is_plain_relative(name):
        raise SourceError(
            f"{named_by} names {name!r}, which is not a plain file name inside {folder}; refusing to read it"
        )
    path = folder / PurePosixPath(name)
    try:
        target, root = path.resolve(), folder.resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise SourceError(f"{path}: cannot be followed: {error}") from error
    if target.is_relative_to(root) or _is_hub_blob(root, target):
        return path
    raise SourceError(f"{path} is a link to {target}, outside the folder; copy the file into {folder} to use it")


def _is_hub_blob(snapshot: Path, target: Path) -> bool:
    """A Hub cache keeps repo/snapshots/REVISION/name -> repo/blobs/HASH."""
    return snapshot.parent.name == "snapshots" and target.is_relative_to(snapshot.parent.parent / "blobs")


def read_small(path: Path, limit: int, fail: Callable[[str], Exception]) -> bytes:
    """Read a file of at most `limit` bytes; `fail` makes the error from a message."""
    try:
        size = path.stat().st_size
        if size > limit:
            raise fail(f"{path}: {size} bytes, more than the {limit} that such a file may have")
        return path.read_bytes()
    except OSError as error:
        raise fail(f"{path}: cannot be read: {error.strerror or error}") from error
