"""A whole network through a GPU's kernels, passes and pages included, beside the reference: in the interpreter or there."""

from __future__ import annotations

import pytest
import torch
from paged_cases import Case, paged_batch, tables

from halfbyte.kernels.reference import ReferenceKernels

pytest.importorskip("triton", reason="triton is for Linux only")

from test_fixed_rows import network

from halfbyte.engine.cached_network import CachedNetwork, PagedAttend
from halfbyte.kernels.interface import PagedBatch

CASE = Case(1, 1, 1, (23, 9))
PASSES = [[(0, 0, 20), (1, 0, 8)], [(0, 20, 21), (1, 8, 9)], [(0, 21, 23)]]  # prompts, a step of both, one goes on


def logits(net, kind):
    """Of every token, in the order of the passes."""
    blocks, device = tables(CASE), net.device
    cached = CachedNetwork(net, sum(map(len, blocks)) + 1, 16, kind)
    ids = torch.randint(0, 257, (2, 23), generator=torch.Generator().manual_seed(1))
    found = []
    for pieces in PASSES:
        batch = paged_batch(blocks, pieces)
        there = PagedBatch(
            *(x.to(device) for x in (batch.slot_mapping, batch.block_tables, batch.query_start, batch.context_lens)),
            batch.max_query, batch.max_context,
        )  # fmt: skip
        tokens = torch.cat([ids[s, first:end] for s, first, end in pieces]).to(device)
        positions = torch.cat([torch.arange(first, end) for _, first, end in pieces]).to(device)
        hidden = net.forward(tokens, positions, PagedAttend(net, cached.caches, there))
        found.append(net.logits(hidden).cpu())
    return torch.cat(found)


@pytest.mark.parametrize("kind", ["auto", "int8"])
@pytest.mark.parametrize("fixed", [False, True])
def test_logits_are_the_references(fixed, kind):
    ours, theirs = logits(network(fixed=fixed), kind), logits(network(kernels=ReferenceKernels()), kind)
    assert (ours - theirs).norm() < (2e-2 if kind == "int8" else 5e-3) * theirs.norm()
