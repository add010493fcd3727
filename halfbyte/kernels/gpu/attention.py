"""Attention on a GPU: sequences with one new token each by paged_decode.cu where that can be, all else by Triton."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import torch

from halfbyte.kernels.cuda.compile import compiled
from halfbyte.kernels.cuda.launch import CudaKernel
from halfbyte.kernels.gpu.fresh import Fresh
from halfbyte.kernels.gpu.linear import arch_of
from halfbyte.kernels.gpu.mode import Mode
from halfbyte.kernels.interface import PagedBatch
from halfbyte.kernels.triton.paged_attention import PIECE, paged_attention, pieces_of, put_together

MOST_SHARING = 4  # query heads of a key-value head: more are better served by the matrix units
THREADS = 256
FEW_BLOCKS = 512


def attend(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, batch: PagedBatch, scale: float, window: int | None,
    out: torch.Tensor, pieces: int | None = None, *, tiled: bool = False, mode: Mode | None = None,
    fresh: Fresh | None = None,
) -> torch.Tensor:  # fmt: skip
    """See `paged_attention`. mode: None, the device's.

    fresh: sequences that need no pages. Where there are no others the result is not `out`.
    """
    mode = Mode.of(q.device) if mode is None else mode
    if fresh is None:
        return _by_pages(q, keys, values, batch, scale, window, out, pieces, tiled=tiled, mode=mode)
    found = fresh.attend(q[fresh.start :], scale, window)
    if fresh.start == 0:
        return found
    _by_pages(q, keys, values, _without_fresh(batch), scale, window, out, None, tiled=tiled, mode=mode)
    out[fresh.start :] = found
    return out


def _by_pages(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, batch: PagedBatch, scale: float, window: int | None,
    out: torch.Tensor, pieces: int | None, *, tiled: bool, mode: Mode,
) -> torch.Tensor:  # fmt: skip
    if mode.fixed or mode.portable or keys.dtype == torch.int8:
        return paged_attention(q, keys, values, batch, scale, window, out, pieces, tiled=tiled, fixed=mode.fixed)
    if batch.max_query > 1 and batch.singles:
        n = batch.singles
        slots, tables, starts, contexts = batch.slot_mapping, batch.block_tables, batch.query_start, batch.context_lens
        alone = PagedBatch(slots[:n], tables[:n], starts[: n + 1], contexts[:n], 1, batch.singles_context)
        _by_pages(q[:n], keys, values, alone, scale, window, out[:n], None, tiled=tiled, mode=mode)
        if n < len(contexts):
            paged_attention(q, keys, values, batch, scale, window, out, tiled=tiled, first=n)
        return out
    T, heads, d = q.shape
    kv_heads, block = keys.shape[1:3]
    eight_bits = keys.dtype == torch.float8_e4m3fn
    lanes = d // (16 if eight_bits else 8)
    if batch.max_query > 1 or heads // kv_heads > MOST_SHARING or d % 32 or lanes > 32 or 32 % lanes:
        return paged_attention(q, keys, values, batch, scale, window, out, pieces, tiled=tiled)
    pieces = pieces_of(batch) if pieces is None else pieces
    parts, weights = out, None
    if pieces > 1:
        parts = torch.empty(pieces, T, heads, d, dtype=torch.float32, device=q.device)
        weights = torch.empty(pieces, T, heads, dtype=torch.float32, device=q.device)
    # Few blocks wait for memory once, with all of their loads under way; many keep it busy with fewer registers each.
    few = T * kv_heads * pieces <= FEW_BLOCKS
    ahead = PIECE // (THREADS // lanes) if few else 4
    group = heads // kv_heads
    kernel = _decode(arch_of(q.device), d, group, block, eight_bits, pieces > 1, tiled and pieces == 1, ahead)
    tables = batch.block_tables
    kernel(
        T * kv_heads * pieces, THREADS, 0,
        (q, keys, values, parts, weights, tables, batch.context_lens, kv_heads, tables.stride(0), pieces, T * heads,
         window or 0, scale), early=True,
    )  # fmt: skip
    if weights is not None:
        put_together(parts, weights, out, tiled=tiled)
    return out


def _without_fresh(batch: PagedBatch) -> PagedBatch:
    """The sequences before those that have no past."""
    n = len(batch.context_lens) - batch.fresh
    return PagedBatch(
        batch.slot_mapping, batch.block_tables[:n], batch.query_start[: n + 1], batch.context_lens[:n],
        batch.max_query, batch.max_context, batch.singles, batch.singles_context,
    )  # fmt: skip


@cache
def _decode(
    arch: str, d: int, group: int, block: int, eight_bits: bool, split: bool, tiled: bool, ahead: int
) -> CudaKernel:
    defines = {
        "D": d, "GROUP": group, "BLOCK": block, "FP8": int(eight_bits), "LENGTH": PIECE, "SPLIT": int(split),
        "TILED": int(tiled), "AHEAD": ahead,
    }  # fmt: skip
    folder = files("halfbyte.kernels.cuda")
    source = (folder / "ptx.cuh").read_text() + (folder / "paged_decode.cu").read_text()
    return CudaKernel(compiled(source, defines, arch), "paged_decode", 0)
