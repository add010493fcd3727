"""Results in files that are whole or not there, in a folder that belongs to one protocol."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from halfbyte.checkpoint.fields import parse_json_object
from halfbyte.checkpoint.writer import json_bytes, sync
from halfbyte.errors import EvaluationError, OutputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def settle(folder: Path, protocol: dict[str, Any]) -> None:
    """Make the folder this protocol's. Raises EvaluationError, naming what differs, if it is another's."""
    path = folder / "protocol.json"
    if not path.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise EvaluationError(f"{folder} holds other things than a comparison; choose another --out")
        write_whole(path, protocol)
        return
    found = parse_json_object(path.read_bytes(), str(path))
    same = json.loads(json.dumps(protocol))
    if differs := [name for name in same.keys() | found.keys() if same.get(name) != found.get(name)]:
        name = min(differs)
        raise EvaluationError(
            f"{folder} holds a comparison in which {name} is {found.get(name)!r}, not {same.get(name)!r}; "
            "choose another --out, or say the same"
        )


def kept_or(path: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the file holds; if there is none, what is computed now and kept there."""
    if path.is_file():
        return parse_json_object(path.read_bytes(), str(path))
    value = compute()
    write_whole(path, value)
    return value


def write_whole(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file under another name, sync, and put it in its place."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(json_bytes(value))
        sync(part)
        part.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
