"""Keys and values of 8 bits, each token of each head with a scale of its own, in pages.

A page holds one head's block of tokens: their numbers, int8 [block size, width], then their scales, float32
[block size]. What kernels are handed is a view of the numbers, [blocks, heads, block size, width]; the scales are found
behind them in the same memory.
"""

from __future__ import annotations

import torch

from halfbyte.errors import KernelError

TOP = 127  # so that both signs have as many steps
BYTES = 4  # of a scale


def make_int8_cache(
    blocks: int, heads: int, block_size: int, width: int, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """A view int8 [blocks, heads, block size, width]. Not zeroed. Raises KernelError for pages of an odd size."""
    if block_size * width % BYTES:
        raise KernelError(
            f"kv_cache_dtype 'int8' needs pages of a multiple of {BYTES} numbers, and a page of {block_size} tokens "
            f"and heads of {width} has {block_size * width}; choose another block_size"
        )
    page = block_size * (width + BYTES)
    memory = torch.empty(blocks * heads * page, dtype=torch.int8, device=device)
    return memory.as_strided((blocks, heads, block_size, width), (heads * page, page, width, 1))


def scales_of(cache: torch.Tensor) -> torch.Tensor:
    """The view float32 [blocks, heads, block size] of a cache's scales."""
    blocks, heads, block_size, width = cache.shape
    page = block_size * (width + BYTES) // BYTES
    return floats_of(cache).as_strided(
        (blocks, heads, block_size), (heads * page, page, 1), block_size * width // BYTES
    )


def floats_of(cache: torch.Tensor) -> torch.Tensor:
    """All of a cache's memory, read as float32."""
    return torch.empty(0, dtype=torch.float32, device=cache.device).set_(cache.untyped_storage())  # type: ignore[call-overload, no-any-return]
