"""The order of columns that products of many tokens read, see wide_linear.cu."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def place_of(column, TILED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where a column lies in it; or, not TILED, in its own place."""
    if TILED:
        low = column % 32
        column = column - low + low // 2 % 4 * 8 + low // 16 * 4 + low // 8 % 2 * 2 + low % 2
    return column
