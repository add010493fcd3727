"""Of what numbers keys and values are kept."""

from __future__ import annotations

from typing import Literal, get_args

from halfbyte.errors import KernelError

# "auto": what a set of kernels computes with; "fp8": e4m3; "int8": with a scale for each token of each head
CacheKind = Literal["auto", "fp8", "int8"]
CACHE_KINDS: tuple[CacheKind, ...] = get_args(CacheKind)


def only_auto(kind: CacheKind) -> None:
    """For kernels that keep nothing else. Raises KernelError for another kind."""
    if kind != "auto":
        raise KernelError(
            f'kv_cache_dtype {kind!r} needs a GPU, or compute="float32", which does it slowly; the CPU\'s fast kernels '
            "have 'auto' alone"
        )
