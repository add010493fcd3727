"""What OpenAI calls system_fingerprint: a name for all that an answer depends on beside the request."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def fingerprint_of(source: str, settings: Mapping[str, Any]) -> str:
    """Of a model or adapter: changes with its files, with how it is run, and with what runs it.

    A file counts by its name, size and time: reading gigabytes for this would hold up the start.
    """
    path = Path(source)
    files = sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []
    stats = [(file.name, stat.st_size, stat.st_mtime_ns) for file in files for stat in (file.stat(),)]
    made_by = [version("halfbyte"), version("torch")]
    text = json.dumps([made_by, source, stats, dict(settings)], default=str, sort_keys=True)
    return f"fp_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
