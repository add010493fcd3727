"""Paged attention against attention over whole sequences, and against itself in other passes."""

from __future__ import annotations

import pytest
import torch
from paged_cases import CASES, at_once, in_chunks, one_by_one, random_qkv, run

from halfbyte.kernels.reference import ReferenceKernels, attention


@pytest.mark.parametrize("name", CASES)
def test_equals_attention_over_whole_sequences(name):
    case = CASES[name]
    whole = [x.split(case.lengths) for x in random_qkv(case)]
    for ours, q, k, v in zip(run(ReferenceKernels(), case, in_chunks(case, 13)), *whole, strict=True):
        expected = attention(q[None], k[None], v[None], window=case.window)[0].flatten(1)
        assert (ours - expected).abs().max() < 2e-5


@pytest.mark.parametrize("name", CASES)
def test_however_it_is_cut_nothing_changes(name):
    """Nor with more threads for more rows, as the network has them."""
    case, threads = CASES[name], torch.get_num_threads()
    torch.set_num_threads(2)
    expected = run(ReferenceKernels(), case, at_once(case))
    torch.set_num_threads(threads)
    for passes in (one_by_one(case), in_chunks(case, 1), in_chunks(case, 5), in_chunks(case, 16)):
        for ours, theirs in zip(run(ReferenceKernels(), case, passes), expected, strict=True):
            assert torch.equal(ours, theirs)
