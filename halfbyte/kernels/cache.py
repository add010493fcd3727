"""Where compiled kernels are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfbyte.checkpoint.cache import cache_folder

if TYPE_CHECKING:
    from pathlib import Path


def kernel_folder() -> Path:
    """$HALFBYTE_CACHE/kernels, or ~/.cache/halfbyte/kernels."""
    return cache_folder() / "kernels"
