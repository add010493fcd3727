"""Where fetched models and built kernels are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$HALFBYTE_CACHE, or ~/.cache/halfbyte."""
    named = os.environ.get("HALFBYTE_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "halfbyte"
