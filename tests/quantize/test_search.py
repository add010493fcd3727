"""The search against brute force in float64, and what must hold whatever it finds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.quantize.awq_search import candidate, relative_magnitude, search_scale, shared
from halfbyte.quantize.clip_search import SHRINKS, diagonal_blocks, search_ranges
from halfbyte.quantize.rounding import ranges, rounding_error
from halfbyte.quantize.statistics import COLUMNS, InputStatistics, output_error


def statistics(x: torch.Tensor) -> InputStatistics:
    stats = InputStatistics.empty(x.shape[1])
    for part in x.split(50):
        stats.add(part)
    stats.finish()
    return stats


def row_errors(delta: torch.Tensor, H: torch.Tensor) -> torch.Tensor:
    return (delta @ H * delta).sum(1)


def inputs(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    """Correlated activations with a few loud channels, as networks have them."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=g) @ torch.randn(width, width, generator=g) / width**0.5
    x[:, :: max(width // 4, 1)] *= 20
    return x


@pytest.mark.parametrize("width", [7, 64, COLUMNS, COLUMNS + 40])
def test_h_is_the_sum_of_outer_products(width):
    x = inputs(120, width)
    stats = statistics(x)
    assert torch.allclose(stats.H, x.T @ x, rtol=1e-4, atol=1e-2)
    assert torch.equal(stats.H, stats.H.T)
    assert torch.allclose(stats.mean_abs, x.abs().mean(0), rtol=1e-5)


def test_the_trace_is_the_squared_error_of_the_output():
    x, delta = inputs(300, 48).double(), torch.randn(20, 48).double()
    H = x.T @ x
    expected = (x @ delta.T).square()
    assert torch.allclose(output_error(delta, H), expected.sum(), rtol=1e-10)
    assert torch.allclose(row_errors(delta, H), expected.sum(0), rtol=1e-10)


def test_dividing_the_input_is_dividing_h():
    x, scale = inputs(200, 32), torch.rand(32) + 0.5
    divided, expected = statistics(x), statistics(x / scale)
    divided.rescale(scale)
    assert torch.allclose(divided.H, expected.H, rtol=1e-3, atol=1e-2)
    assert torch.allclose(divided.mean_abs, expected.mean_abs)


@pytest.mark.parametrize("seed", range(4))
def test_the_search_finds_what_brute_force_over_its_grid_finds(seed):
    x, weight = inputs(400, 64, seed), torch.randn(24, 64, generator=torch.Generator().manual_seed(seed))
    stats = statistics(x)
    choice = search_scale(weight, stats, 16)
    activity = stats.mean_abs / stats.mean_abs.mean()
    magnitude = relative_magnitude(weight, 16)
    x64 = x.double()

    def error(scale: torch.Tensor) -> float:
        scaled = weight * scale
        rounded = (rounding_error(scaled, *ranges(scaled, 16)) + scaled) / scale
        return (x64 @ (rounded - weight).double().T).square().sum().item()

    grid = [candidate(activity.clamp(min=1e-3), magnitude, i / 10, f) for f in ("x", "x/w") for i in range(11)]
    best = min(error(s) for s in [torch.ones(64), *grid])
    assert error(choice.scale) <= best * 1.001
    assert choice.error == pytest.approx(error(choice.scale), rel=1e-3)
    assert choice.error < choice.unscaled_error  # the loud channels make scaling pay


@given(st.integers(0, 999), st.sampled_from([0, 1, 2]))
@settings(max_examples=40, deadline=None)
def test_the_search_never_does_worse_than_plain_rounding(seed, damage):
    x, weight = inputs(60, 32, seed), torch.randn(8, 32, generator=torch.Generator().manual_seed(seed))
    if damage == 1:
        x[:, 3] = 0  # a dead channel
        weight[:, 5] = 0
    if damage == 2:
        weight[:, :16] = 0.25
    stats = statistics(x)
    choice = search_scale(weight, stats, 16)
    assert choice.error <= choice.unscaled_error
    assert choice.scale.isfinite().all()
    assert (choice.scale > 0).all()
    H, scaled = stats.H / choice.scale / choice.scale[:, None], weight * choice.scale
    clipped = row_errors(rounding_error(scaled, *search_ranges(scaled, diag_only(H, 16), 16)), diag_only(H, 16))
    plain = row_errors(rounding_error(scaled, *ranges(scaled, 16)), diag_only(H, 16))
    assert (clipped <= plain * 1.0001 + 1e-6).all()


def diag_only(H: torch.Tensor, size: int) -> torch.Tensor:
    """H without what couples its groups, for which clipping group by group is exact."""
    return torch.block_diag(*diagonal_blocks(H, size))


def test_diagonal_blocks():
    H = torch.arange(36.0).view(6, 6)
    assert torch.equal(diagonal_blocks(H, 3), torch.stack([H[:3, :3], H[3:, 3:]]))


def test_clipping_finds_the_shrink_that_brute_force_finds():
    x, weight = inputs(200, 16), torch.randn(6, 16)
    weight[:, 0] *= 4
    H = statistics(x).H
    low, high = search_ranges(weight, H, 16)
    full = ranges(weight, 16)
    errors = [row_errors(rounding_error(weight, full[0] * s, full[1] * s), H) for s in (1.0, *SHRINKS)]
    assert torch.allclose(row_errors(rounding_error(weight, low, high), H), torch.stack(errors).amin(0), rtol=1e-3)


def test_channels_of_a_slot_share_their_scale():
    slots = torch.tensor([0, 1, 0, 1])
    assert shared(torch.tensor([1.0, 10.0, 3.0, 30.0]), slots).tolist() == [2, 20, 2, 20]
    x = inputs(100, 32)
    slots = torch.arange(16).repeat(2)
    choice = search_scale(torch.randn(8, 32), statistics(x), 16, slots)
    assert torch.equal(choice.scale[:16], choice.scale[16:])
