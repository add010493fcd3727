from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.quantize.gptq import DAMPING, SHRINK, ColumnRounding, factor, inverse_runs
from halfbyte.quantize.rounding import grid, quantize_weight, ranges
from halfbyte.quantize.statistics import output_error


def problem(n: int, k: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(4 * k, k, generator=g) @ torch.randn(k, k, generator=g)
    return torch.randn(n, k, generator=g), x.T @ x


def round_columns(weight, low, high, H, shrink=SHRINK):
    return ColumnRounding(H, shrink).round(weight, low, high)


def error(weight, packed, H):
    return output_error(packed.dequantize() - weight, H).item()


@given(st.integers(1, 12), st.integers(1, 6), st.sampled_from([8, 16, 64]), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_grid_is_kept_and_the_values_are_in_range(n, groups, size, seed):
    weight, H = problem(n, groups * size, seed)
    low, high = ranges(weight, size)
    packed = round_columns(weight, low, high, H)
    scale, zero = grid(low, high)
    assert torch.equal(packed.s.float(), scale)
    assert torch.equal(packed.z.float(), zero)
    assert packed.q.max() <= 15


@pytest.mark.parametrize(("k", "size"), [(64, 16), (256, 64), (320, 64)])  # below, on and across the blocks of columns
def test_it_lowers_the_error_of_plain_rounding_on_correlated_inputs(k, size):
    weight, H = problem(24, k, 0)
    low, high = ranges(weight, size)
    assert error(weight, round_columns(weight, low, high, H, shrink=0), H) < 0.5 * error(
        weight, quantize_weight(weight, low, high), H
    )


def test_uncorrelated_inputs_leave_plain_rounding():
    weight, _ = problem(16, 128, 1)
    low, high = ranges(weight, 32)
    H = torch.diag(torch.rand(128) + 0.5)
    assert torch.equal(round_columns(weight, low, high, H).q, quantize_weight(weight, low, high).q)


def test_against_every_possible_rounding():
    """Four columns of a few levels: within a fifth of the best of all 4096 choices near the weight."""
    weight, H = problem(6, 4, 3)
    low, high = ranges(weight, 4)
    scale, zero = grid(low, high)
    near = torch.tensor(list(itertools.product((-1, 0, 1, 2), repeat=4))).float()
    ours = round_columns(weight, low, high, H, shrink=0)
    for row in range(6):
        base = (weight[row] / scale[row]).floor()
        steps = (base + near).clamp(-zero[row], 15 - zero[row])
        delta = steps * scale[row] - weight[row]
        best = (delta @ H * delta).sum(1).min()
        got = ours.dequantize()[row] - weight[row]
        assert got @ H @ got <= 2.5 * best + 1e-4


def test_dead_channels_and_a_singular_h():
    weight, H = problem(8, 64, 2)
    H[5], H[:, 5] = 0, 0
    H[:, 9], H[9] = H[:, 8], H[8]  # two inputs that are always equal
    H[9, 9] = H[8, 8]
    low, high = ranges(weight, 32)
    assert round_columns(weight, low, high, H).dequantize().isfinite().all()
    assert torch.equal(round_columns(weight, low, high, torch.zeros(64, 64)).q, quantize_weight(weight, low, high).q)


def test_the_factor_is_of_the_damped_h_and_its_runs_are_of_the_inverse():
    _, H = problem(1, 160, 4)
    order = torch.arange(159, -1, -1)
    lower = factor(H, order, 0.5)
    own = H.double().diagonal()
    damped = (H.double() + torch.diag(0.5 * own + DAMPING * own.mean())).flip(0, 1)
    assert torch.allclose(lower.double() @ lower.double().T, damped, rtol=1e-4, atol=1e-4 * own.max().item())
    assert torch.equal(lower, lower.tril())
    first, last = inverse_runs(lower).double()
    assert torch.equal(last[:32, :32], last[:32, :32].triu())
    assert torch.equal(last[32:, 32:], torch.eye(96).double())
    for run, upper in ((slice(0, 128), first), (slice(128, 160), last[:32, :32])):
        part = lower.double()[run, run]
        wanted = torch.linalg.inv((part @ part.T).flip(0, 1))  # in the order of rounding
        assert torch.allclose(upper.T @ upper, wanted, rtol=1e-3, atol=1e-5 * wanted.max().item())
