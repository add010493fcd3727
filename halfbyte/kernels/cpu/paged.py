"""A paged batch and its caches as the native kernels read them (native/attention.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from halfbyte.kernels.cpu.library import LayerCache, Paged

if TYPE_CHECKING:
    from halfbyte.kernels.interface import PagedBatch


KINDS = (torch.int32, torch.int32, torch.int32, torch.int64)


def paged_arguments(
    batch: PagedBatch, heads: int, k_cache: torch.Tensor, scale: float
) -> tuple[Paged, list[torch.Tensor]]:
    """And the tensors that it points into, to be held until the call is over."""
    _, kv_heads, size, d = k_cache.shape
    held = [batch.query_start, batch.context_lens, batch.block_tables, batch.slot_mapping]
    for i, kind in enumerate(KINDS):
        if held[i].dtype is not kind or not held[i].is_contiguous():
            held[i] = held[i].to(kind).contiguous()
    sequences, width = batch.block_tables.shape
    return Paged(sequences, heads, kv_heads, d, size, width, *(x.data_ptr() for x in held), scale), held


def layer_cache(k_cache: torch.Tensor, v_cache: torch.Tensor, window: int | None) -> LayerCache:
    """One layer's."""
    assert k_cache.is_contiguous()
    assert v_cache.is_contiguous()
    return LayerCache(k_cache.data_ptr(), v_cache.data_ptr(), window or 0)
