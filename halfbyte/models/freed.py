"""Memory that is free and that the C library keeps."""

from __future__ import annotations

import ctypes
import sys


def give_back_freed() -> None:
    """Hand it to the system. Loading takes and frees much; a C library without this call keeps some of it."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; musl has none
        if trim is not None:
            trim(0)
