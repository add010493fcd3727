"""Native products, spans and heads against what they should compute, on every instruction set that this machine has."""

from __future__ import annotations

import math
import multiprocessing

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_cases import HERE, a_span, exact, int4, library, linear_weight, native, relative, rounded

from halfbyte.kernels import reference
from halfbyte.kernels.cpu.native_kernels import NativeKernels
from halfbyte.kernels.interface import LinearWeight, Span

ONE_PRODUCT = 0.015  # what rounding activations to 8 bits costs, see test_onnx_kernels
ONE_STEP = 1e-3  # what it costs if a value between two steps falls to the other: compilers may multiply and add in one


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("group", [32, 64, 96, 128, 192, 384])
@pytest.mark.parametrize("rows", [1, 2, 3, 8, 13])
def test_a_product_is_that_of_the_rounded_activations(name, group, rows):
    w = linear_weight(40, 384, group, bias=True)
    x = torch.randn(rows, 384) * torch.logspace(-3, 3, 384)
    assert relative(native(name).linear(w)(x), exact(x, w)) < ONE_STEP


@given(st.integers(1, 70), st.integers(1, 9), st.sampled_from([1, 2, 3]), st.integers(1, 20), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_random_shapes(n, groups, blocks, rows, seed):
    w = linear_weight(n, groups * blocks * 32, blocks * 32, bias=seed % 2 == 0, seed=seed)
    x = torch.randn(rows, groups * blocks * 32, generator=torch.Generator().manual_seed(seed))
    for name in HERE:
        assert relative(native(name).linear(w)(x), exact(x, w)) < ONE_STEP


@pytest.mark.parametrize("name", HERE)
def test_the_largest_values_do_not_overflow_the_integers(name):
    w = LinearWeight(int4(16, 64, 32))
    for q, z, sign in ((15, 0, 1), (15, 0, -1), (0, 15, 1), (0, 15, -1)):
        w.weight.q.fill_(q)
        w.weight.z.fill_(z)
        x = torch.full((13, 64), 127.0 * sign)
        assert relative(native(name).linear(w)(x), exact(x, w)) < ONE_STEP


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("group", [32, 96])
def test_a_row_is_the_same_alone_and_among_many(name, group):
    """Thirty-two rows meet weights that were made bytes, fewer meet nibbles (unpacked.h)."""
    w, p, x, residual = linear_weight(40, 96, group, bias=True), a_span(), torch.randn(39, 96), torch.randn(39, 64)
    kernels = native(name)
    linear, span = kernels.linear(w), kernels.span(p)
    together, (out, after) = linear(x), span(x, residual)
    for row in range(39):
        one = slice(row, row + 1)
        assert torch.equal(linear(x[one]), together[one])
        alone, alone_after = span(x[one], residual[one])
        assert torch.equal(alone, out[one])
        assert torch.equal(alone_after, after[one])


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("scale", [0.0, 1e-42, 1e-36, 1e-30, 1e30])
def test_extreme_activations(name, scale):
    w = linear_weight(24, 96, 32)
    x = torch.randn(3, 96) * scale
    y, expected = native(name).linear(w)(x), exact(x, w)
    assert (y - expected).abs().max() <= ONE_STEP * expected.abs().max() + 1e-33


def test_zero_groups_give_zero():
    w = linear_weight(24, 96, 32)
    w.weight.s[:, 1] = 0
    x = torch.zeros(2, 96)
    x[:, 32:64] = torch.randn(2, 32)
    for name in HERE:
        assert torch.equal(native(name).linear(w)(x), torch.zeros(2, 24))


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_in_its_row_and_shows(name, bad):
    w, p = linear_weight(24, 96, 32), a_span()
    x = torch.randn(14, 96)
    spoilt = x.clone()
    spoilt[2, 40] = bad
    y, expected = native(name).linear(w)(spoilt), native(name).linear(w)(x)
    assert not y[2].isfinite().any()
    others = [0, 1, *range(3, 14)]
    assert torch.equal(y[others], expected[others])
    out, residual = native(name).span(p)(spoilt, torch.randn(14, 64))
    assert not out[2].isfinite().any()
    assert not residual[2].isfinite().any()
    assert out[others].isfinite().all()


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("rows", [1, 4, 17])
@pytest.mark.parametrize(
    "part",
    [{}, {"after": False}, {"qkv": False}, {"bias": True}, {"group": -1}, {"hidden": 192, "group": 64, "attended": 64}],
)
def test_spans(name, rows, part):
    p = a_span(**part)
    g = torch.Generator().manual_seed(rows)
    residual = torch.randn(rows, p.norm.shape[0], generator=g)
    attended = None if p.after is None else torch.randn(rows, p.after.o.weight.q.shape[1], generator=g)
    before = residual.clone()
    ours = native(name).span(p)(attended, residual)
    assert torch.equal(residual, before)  # inputs are left as they were
    for ours_, expected in zip(ours, reference.span(p, attended, residual), strict=True):
        assert ours_.shape == expected.shape
        assert relative(ours_, expected) < 3 * ONE_PRODUCT


def test_instruction_sets_agree():
    """But for the last bits: not all of them multiply and add in one."""
    p, x, residual = a_span(), torch.randn(5, 96), torch.randn(5, 64)
    results = [native(name).span(p)(x, residual)[1] for name in HERE]
    for other in results[1:]:
        assert relative(other, results[0]) < 5 * ONE_STEP


def test_adapters_see_every_linear_and_change_it():
    p, x, residual = a_span(bias=True), torch.randn(3, 96), torch.randn(3, 64)
    span, seen = native(adaptable=True).span(p), {}

    def adapt(name, x_, y):
        seen[name] = (x_.shape, y.shape)
        y += 1

    plain = native().span(p)(x, residual)
    for ours, expected in zip(span(x, residual), plain, strict=True):
        assert relative(ours, expected) < 5 * ONE_STEP
    for ours, expected in zip(span(x, residual, lambda *_: None), span(x, residual), strict=True):
        assert torch.equal(ours, expected)  # a row comes out the same beside rows that have adapters
    adapted = span(x, residual, adapt)
    expected = reference.span(p, x, residual, lambda x_, w, _: reference.linear(x_, w) + 1)
    assert relative(adapted[0], expected[0]) < 3 * ONE_PRODUCT
    assert seen == {
        "o": ((3, 96), (3, 64)),
        "gate_up": ((3, 64), (3, 256)),
        "down": ((3, 128), (3, 64)),
        "qkv": ((3, 64), (3, 80)),
    }


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("rows", [1, 3, 9])
def test_heads(name, rows):
    weight, x = torch.randn(200, 96), torch.randn(rows, 96)
    kept = rounded(weight, 63)  # by the same rule, to 7 bits
    assert relative(native(name).head(weight)(x), rounded(x) @ kept.T) < ONE_STEP
    assert (kept - weight).abs().max() <= weight.abs().max() / 126 + 1e-6


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("rows", [1, 5])
def test_the_largest_values_do_not_overflow_a_heads_integers(name, rows):
    weight = torch.ones(32, 64)
    weight[16:] = -1
    for x in (torch.full((rows, 64), 127.0), torch.full((rows, 64), -127.0)):
        assert relative(native(name).head(weight)(x), x @ weight.T) < 1e-6


def test_a_head_larger_than_what_is_packed_at_a_time():
    weight, x = torch.randn(5003, 32), torch.randn(2, 32)
    assert relative(native().head(weight)(x), x @ weight.T) < 1.5 * ONE_PRODUCT  # and the weight to 7


def test_what_the_native_kernels_cannot_take_others_do():
    kernels = native()
    float_linear = LinearWeight(torch.randn(40, 48), torch.randn(40))
    x = torch.randn(5, 48)
    assert torch.allclose(kernels.linear(float_linear)(x), reference.linear(x, float_linear), atol=1e-5)
    sixteen = linear_weight(8, 48, 16)
    ours, _ = kernels.span(Span(1e-5, None, torch.ones(48), sixteen))(None, x)
    assert relative(ours, reference.span(Span(1e-5, None, torch.ones(48), sixteen), None, x)[0]) < ONE_PRODUCT
    ordered = linear_weight(8, 64, 32)
    ordered.order = torch.randperm(64)
    x = torch.randn(5, 64)
    assert relative(kernels.linear(ordered)(x), exact(x[:, ordered.order], ordered)) < ONE_PRODUCT
    weight = torch.randn(20, 40)
    assert torch.allclose(kernels.head(weight)(torch.ones(1, 40)), weight.sum(1)[None], atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_any_number_of_threads_computes_the_same(threads):
    p, x, residual = a_span(), torch.randn(11, 96), torch.randn(11, 64)
    kernels = native()
    expected = kernels.span(p)(x, residual)
    kernels.library.threads(threads)
    try:
        for ours, theirs in zip(kernels.span(p)(x, residual), expected, strict=True):
            assert torch.equal(ours, theirs)
    finally:
        kernels.library.threads(torch.get_num_threads())


def test_a_forked_process_starts_its_own_threads():
    kernels = NativeKernels(library(HERE[0]))
    kernels.library.threads(2)
    w, x = linear_weight(64, 64, 32), torch.randn(2, 64)
    linear = kernels.linear(w)
    expected = linear(x)
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    child = fork.Process(target=lambda: theirs.send(linear(x).tolist()))
    child.start()
    assert ours.poll(60)
    assert torch.equal(torch.tensor(ours.recv()), expected)
    child.join()
    assert child.exitcode == 0
    kernels.library.threads(torch.get_num_threads())
