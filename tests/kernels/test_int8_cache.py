"""Keys and values of 8 bits with scales: the layout, the reference, and what is kept of what is not finite."""

from __future__ import annotations

import math

import pytest
import torch
from paged_cases import CASES, at_once, in_chunks, one_by_one, run

from halfbyte.errors import KernelError
from halfbyte.kernels.int8_cache import make_int8_cache, scales_of
from halfbyte.kernels.reference import ReferenceKernels, from_cache, to_int8


class Int8Kernels(ReferenceKernels):
    def kv_cache(self, blocks, heads, block_size, width, kind="int8"):
        return poisoned(super().kv_cache(blocks, heads, block_size, width, "int8"))


def poisoned(cache):
    """What is not written is poison: numbers of any size, scales that are none."""
    scales_of(cache).fill_(math.nan)
    cache.fill_(77)
    cache.fill_ = lambda value: cache
    return cache


def test_numbers_and_scales_lie_side_by_side():
    cache = make_int8_cache(5, 3, 16, 40)
    scales = scales_of(cache)
    cache.copy_(torch.randint(-127, 128, cache.shape, dtype=torch.int8))
    before = cache.clone()
    scales.copy_(torch.randn(5, 3, 16))
    assert torch.equal(cache, before)
    pages = cache.untyped_storage().nbytes() / 15
    assert pages == 16 * 44
    assert from_cache(cache, torch.tensor([4, 1])).shape == (2, 3, 16, 40)
    assert torch.equal(from_cache(cache, torch.tensor([2]))[0], cache[2] * scales[2][..., None])


def test_pages_that_floats_do_not_fit_behind():
    with pytest.raises(KernelError, match="choose another block_size"):
        make_int8_cache(2, 2, 1, 6)


def test_as_near_as_steps_allow():
    x = torch.randn(7, 3, 64) * torch.logspace(-6, 4, 21).view(7, 3, 1)
    x[0, 0] = 0
    q, scale = to_int8(x)
    assert q.dtype == torch.int8
    assert ((q * scale[..., None] - x).abs() <= scale[..., None] * 0.5001).all()
    assert (q.abs().amax(-1)[x.abs().amax(-1) > 0] == 127).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_lost(bad):
    x = torch.randn(2, 2, 8)
    x[1, 0, 3] = bad
    q, scale = to_int8(x)
    assert not (q * scale[..., None]).isfinite()[1, 0].any()
    assert scale.isfinite().sum() == 3


@pytest.mark.parametrize("name", CASES)
def test_attention_is_near_and_however_it_is_cut_the_same(name):
    case = CASES[name]
    expected = run(Int8Kernels(), case, at_once(case))
    plain = run(ReferenceKernels(), case, at_once(case))
    for ours, theirs in zip(expected, plain, strict=True):
        assert (ours - theirs).norm() < 0.02 * theirs.norm()
    for passes in (one_by_one(case), in_chunks(case, 5)):
        for ours, theirs in zip(run(Int8Kernels(), case, passes), expected, strict=True):
            assert torch.equal(ours, theirs)


def test_eight_bits_of_floats():
    """fp8 in the reference: as numbers rounded to it."""
    case = CASES["grouped"]

    class Fp8(ReferenceKernels):
        def kv_cache(self, blocks, heads, block_size, width, kind="fp8"):
            return super().kv_cache(blocks, heads, block_size, width, "fp8")

    found = run(Fp8(), case, at_once(case))
    plain = run(ReferenceKernels(), case, at_once(case))
    for ours, theirs in zip(found, plain, strict=True):
        assert 1e-3 * theirs.norm() < (ours - theirs).norm() < 0.06 * theirs.norm()
