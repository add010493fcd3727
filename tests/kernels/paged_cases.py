"""Paged batches to test attention kernels with: several sequences, cut into passes, in shuffled blocks."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from halfbyte.kernels.interface import PagedBatch

BLOCK = 16


class Case(NamedTuple):
    heads: int
    kv_heads: int
    width: int
    lengths: tuple[int, ...]  # of each sequence
    window: int | None = None


CASES = {
    "grouped": Case(6, 2, 8, (40, 1, 17, 16)),
    "one head each": Case(4, 4, 16, (33, 5)),
    "one key-value head": Case(5, 1, 12, (50, 2, 48)),
    "window": Case(6, 2, 8, (40, 3, 21), 7),
    "window of one": Case(6, 2, 8, (20, 1), 1),
    "SmolLM2's": Case(9, 3, 64, (300, 70)),
}


def random_qkv(case: Case, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of all tokens of all sequences, one behind the other: slices of one tensor, as the network gives them."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(case.lengths), case.heads + 2 * case.kv_heads, case.width, generator=g)
    return tuple(x.split_with_sizes((case.heads, case.kv_heads, case.kv_heads), 1))


def tables(case: Case, seed: int = 0) -> list[list[int]]:
    """Blocks of each sequence, in no order; block 0 belongs to none."""
    counts = [math.ceil(n / BLOCK) for n in case.lengths]
    order = (torch.randperm(sum(counts), generator=torch.Generator().manual_seed(seed)) + 1).tolist()
    return [[order.pop() for _ in range(n)] for n in counts]


def paged_batch(blocks: list[list[int]], pieces: list[tuple[int, int, int]]) -> PagedBatch:
    """pieces: (sequence, first, end), the tokens of the pass."""
    width = max(len(t) for t in blocks) + 1
    table = torch.tensor([blocks[s] + [10**6] * (width - len(blocks[s])) for s, _, _ in pieces], dtype=torch.int32)
    counts = [end - first for _, first, end in pieces]
    slots = [blocks[s][i // BLOCK] * BLOCK + i % BLOCK for s, first, end in pieces for i in range(first, end)]
    return PagedBatch(
        torch.tensor(slots),
        table,
        torch.tensor([0, *torch.tensor(counts).cumsum(0).tolist()], dtype=torch.int32),
        torch.tensor([end for *_, end in pieces], dtype=torch.int32),
        max(counts),
        max(end for *_, end in pieces),
    )


def run(kernels, case: Case, passes: list[list[tuple[int, int, int]]], seed: int = 0) -> list[torch.Tensor]:
    """Attention of every token, by sequence: [length, H * d] each. Memory that is not to be read is NaN."""
    q, k, v = random_qkv(case, seed)
    blocks = tables(case, seed)
    count = sum(map(len, blocks)) + 1
    caches = [kernels.kv_cache(count, case.kv_heads, BLOCK, case.width).fill_(math.nan) for _ in range(2)]
    starts = [sum(case.lengths[:s]) for s in range(len(case.lengths))]
    out = [torch.full((n, case.heads * case.width), math.nan) for n in case.lengths]
    for pieces in passes:
        rows = torch.cat([torch.arange(starts[s] + first, starts[s] + end) for s, first, end in pieces])
        result = kernels.attention(
            q[rows], k[rows], v[rows], *caches, paged_batch(blocks, pieces), case.width**-0.5, case.window
        )
        for (s, first, end), part in zip(pieces, result.split([e - f for _, f, e in pieces]), strict=True):
            out[s][first:end] = part
    return out


def at_once(case: Case) -> list[list[tuple[int, int, int]]]:
    return [[(s, 0, n) for s, n in enumerate(case.lengths)]]


def one_by_one(case: Case) -> list[list[tuple[int, int, int]]]:
    return [[(s, i, i + 1)] for s, n in enumerate(case.lengths) for i in range(n)]


def in_chunks(case: Case, size: int) -> list[list[tuple[int, int, int]]]:
    """All sequences side by side, `size` tokens of each a pass."""
    steps = range(0, max(case.lengths), size)
    return [[(s, i, min(i + size, n)) for s, n in enumerate(case.lengths) if i < n] for i in steps]
