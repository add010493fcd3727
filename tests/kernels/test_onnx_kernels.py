"""The onnxruntime spans against the reference, within what 8-bit activations explain."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.checkpoint.int4 import Int4Weight
from halfbyte.kernels import reference
from halfbyte.kernels.cpu.onnx_kernels import HEAD_BLOCK, OnnxKernels, quantize_8bit
from halfbyte.kernels.interface import AfterAttention, LinearWeight, Span

# An activation rounded to 8 bits within a block errs by at most 1/254 of the block's largest value: for Gaussian values
# about 0.7 % of their root mean square, and a product of independent terms keeps that ratio.
ONE_PRODUCT = 0.015


def int4(n: int, k: int, group: int, seed: int) -> Int4Weight:
    g = torch.Generator().manual_seed(seed)
    scale = (torch.rand(n, k // group, generator=g) * 0.02 + 0.001).half()
    q = torch.randint(0, 16, (n, k), generator=g, dtype=torch.uint8)
    return Int4Weight(q, scale, torch.randint(5, 11, (n, k // group), generator=g, dtype=torch.uint8))


def relative(x: torch.Tensor, y: torch.Tensor) -> float:
    return ((x - y).norm() / y.norm()).item()


def a_span(hidden=64, heads=64, mlp=96, out=80, group=32, *, after=True, qkv=True, bias=False, seed=0) -> Span:
    g = torch.Generator().manual_seed(seed)

    def linear(n: int, k: int) -> LinearWeight:
        return LinearWeight(int4(n, k, group, seed), torch.randn(n, generator=g) if bias else None)

    def norm() -> torch.Tensor:
        return 1 + torch.randn(hidden, generator=g) / 8

    second_half = AfterAttention(linear(hidden, heads), norm(), linear(2 * mlp, hidden), linear(hidden, mlp))
    return Span(1e-5, second_half if after else None, norm(), linear(out, hidden) if qkv else None)


def check_span(p: Span, rows: int, tolerance: float) -> None:
    g = torch.Generator().manual_seed(rows)
    residual = torch.randn(rows, p.norm.shape[0], generator=g)
    attended = None if p.after is None else torch.randn(rows, p.after.o.weight.q.shape[1], generator=g)
    before = residual.clone()
    expected = reference.span(p, attended, residual)
    ours = OnnxKernels().span(p)(attended, residual)
    assert torch.equal(residual, before)  # inputs are left as they were
    for ours_, expected_ in zip(ours, expected, strict=True):
        assert ours_.shape == expected_.shape
        assert relative(ours_, expected_) < tolerance


@pytest.mark.parametrize("rows", [1, 2, 17, 130])
@pytest.mark.parametrize("part", [{}, {"after": False}, {"qkv": False}, {"bias": True}])
def test_spans(rows, part):
    check_span(a_span(**part), rows, 3 * ONE_PRODUCT)


@pytest.mark.parametrize("group", [16, 32, 64, 128, 256, 512, 384, 192, 96, 48])
def test_every_group_size_that_a_power_of_two_from_16_divides(group):
    k = 768 if 768 % group == 0 else 512
    w = LinearWeight(int4(24, k, group, 1))
    p = Span(1e-5, None, torch.ones(k), w)
    check_span(p, 3, ONE_PRODUCT)


@pytest.mark.parametrize("group", [8, 24])
def test_other_group_sizes_run_in_float(group):
    check_span(Span(1e-5, None, torch.ones(48), LinearWeight(int4(8, 48, group, 1))), 3, 1e-5)


def test_an_odd_number_of_groups():
    check_span(Span(1e-5, None, torch.ones(96), LinearWeight(int4(8, 96, 32, 1))), 2, ONE_PRODUCT)


def test_float_linears_stay_exact():
    p = Span(1e-5, None, torch.ones(48), LinearWeight(torch.randn(40, 48), torch.randn(40)))
    check_span(p, 5, 1e-5)


@given(st.integers(1, 3), st.integers(1, 6), st.sampled_from([16, 32]), st.integers(1, 40), st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_random_shapes(n8, groups, group, rows, seed):
    w = LinearWeight(int4(8 * n8, groups * group, group, seed))
    check_span(Span(1e-6, None, torch.ones(groups * group), w), rows, 2 * ONE_PRODUCT)


def test_one_row_calls_do_not_disturb_each_other():
    p = a_span()
    span = OnnxKernels().span(p)
    inputs = [(torch.randn(1, 64), torch.randn(1, 64)) for _ in range(3)]
    alone = [tuple(y.clone() for y in OnnxKernels().span(p)(*x)) for x in inputs]
    for x, expected in zip(inputs, alone, strict=True):
        for y, e in zip(span(*x), expected, strict=True):
            assert torch.equal(y, e)


def test_the_head_in_8_bits():
    weight, x = torch.randn(200, 96), torch.randn(4, 96)
    assert relative(OnnxKernels().head(weight)(x), x @ weight.T) < ONE_PRODUCT
    q, s = quantize_8bit(weight)
    back = (q.float() - 128).view(200, -1, HEAD_BLOCK) * s[..., None]
    assert (back.flatten(1) - weight).abs().max() <= weight.abs().max() / 254 + 1e-6


def test_a_head_whose_width_is_no_multiple_of_the_block_stays_float():
    weight, x = torch.randn(20, 40), torch.randn(4, 40)
    assert torch.allclose(OnnxKernels().head(weight)(x), x @ weight.T, atol=1e-5)


def test_a_zero_head_row_gives_zero():
    assert torch.equal(OnnxKernels().head(torch.zeros(8, 32))(torch.ones(1, 32)), torch.zeros(1, 8))


def test_threads_are_restored_after_a_pass():
    before = torch.get_num_threads()
    with OnnxKernels().threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
