from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.quantize.rounding import grid, quantize_weight, ranges, rounding_error

KINDS = ("normal", "same sign", "constant", "zero", "outlier", "tiny", "negative")


def a_weight(kind: str, n: int, k: int, seed: int) -> torch.Tensor:
    w = torch.randn(n, k, generator=torch.Generator().manual_seed(seed))
    return {
        "normal": w,
        "same sign": w.abs() + 3,
        "constant": torch.full((n, k), -0.7),
        "zero": torch.zeros(n, k),
        "outlier": torch.where(torch.arange(k) == 1, 1000 * w, w),
        "tiny": w * 1e-9,
        "negative": -w.abs(),
    }[kind]


@given(st.sampled_from(KINDS), st.integers(1, 9), st.integers(1, 4), st.sampled_from([1, 8, 32]), st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_rounding_errs_by_half_a_step_at_most_and_stays_in_range(kind, n, groups, size, seed):
    weight = a_weight(kind, n, groups * size, seed)
    low, high = ranges(weight, size)
    packed = quantize_weight(weight, low, high)
    assert packed.q.max() <= 15
    assert packed.z.max() <= 15
    assert packed.s.isfinite().all()
    error = (packed.dequantize() - weight).abs()
    # half a step for the value, another half because the zero point is a whole number, and float16's share of the scale
    step = packed.s.float().repeat_interleave(size, 1)
    assert (error <= step * 1.02).all()
    assert torch.allclose(rounding_error(weight, low, high), packed.dequantize() - weight, atol=1e-6, rtol=1e-5)


def test_a_group_of_one_sign_keeps_its_values():
    """The originals' ranges leave 0 out, and a group far from 0 then errs by most of its value."""
    weight = torch.linspace(10, 11, 32)[None]
    packed = quantize_weight(weight, *ranges(weight, 32))
    assert ((packed.dequantize() - weight).abs() / weight).max() < 0.05


def test_zero_stays_exactly_zero():
    weight = torch.randn(4, 64)
    weight[:, ::7] = 0
    assert (quantize_weight(weight, *ranges(weight, 32)).dequantize()[:, ::7] == 0).all()


def test_the_stored_grid_is_the_one_that_was_rounded_to():
    low, high = ranges(torch.randn(8, 64), 32)
    scale, zero = grid(low, high)
    assert torch.equal(scale, scale.half().float())
    assert torch.equal(zero, zero.round())


@pytest.mark.parametrize("largest", [1e5, 1e6])
def test_values_beyond_float16_scales_stay_finite(largest):
    weight = torch.tensor([[largest, -largest] * 16])
    assert quantize_weight(weight, *ranges(weight, 32)).dequantize().isfinite().all()
