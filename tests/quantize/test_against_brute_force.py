"""Scales, clipping and rounding of random tiny layers against searches in float64 that know none of the short cuts.

Here everything is computed from the layer's inputs and its outputs, one weight, group or column at a time: no H, no
factors, no runs of columns, nothing shared with the code under test but the published grids of candidates.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.quantize import gptq
from halfbyte.quantize.awq_search import search_scale
from halfbyte.quantize.clip_search import search_ranges
from halfbyte.quantize.follow import DAMPING as FOLLOW_DAMPING
from halfbyte.quantize.follow import SHARE, followed
from halfbyte.quantize.gptq import ColumnRounding
from halfbyte.quantize.rounding import quantize_weight, ranges
from halfbyte.quantize.statistics import InputStatistics

SHAPES = (st.integers(1, 9), st.integers(1, 4), st.sampled_from([2, 5, 8, 16]), st.integers(0, 10**6))
TIE = 1e-3  # of a step: nearer to the middle than this, float32 may round the other way


def layer(n: int, groups: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A weight [n, k] and inputs [t, k]: correlated, some loud, at times a dead channel, a constant one, an outlier."""
    rng = np.random.default_rng(seed)
    k = groups * size
    x = rng.normal(size=(3 * k, k)) @ rng.normal(size=(k, k)) / k**0.5 * np.exp(rng.normal(size=k))
    w = rng.normal(size=(n, k))
    one, other = rng.integers(0, k, 2)
    match seed % 5:
        case 0:
            x[:, one] = 0
        case 1:
            x[:, one] = 3.0
        case 2:
            w[:, one] *= 50
        case 3:
            w[:, other // size * size : other // size * size + size] = 0
    return w.astype(np.float32).astype(float), x.astype(np.float32).astype(float)


def statistics(x: np.ndarray) -> InputStatistics:
    stats = InputStatistics.empty(x.shape[1])
    stats.add(torch.tensor(x, dtype=torch.float32))
    stats.finish()
    return stats


def float32(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def grid_of(group: np.ndarray, shrink: float = 1.0) -> tuple[float, float]:
    """Scale and zero point for the weights of one group."""
    low, high = min(group.min(), 0) * shrink, max(group.max(), 0) * shrink
    if low == high:
        return 1.0, 0.0
    scale = float(np.float16(max((high - low) / 15, 2.0**-24)))
    return scale, float(np.clip(np.round(-low / scale), 0, 15))


def nearest(weight: np.ndarray, scale: float, zero: float) -> np.ndarray:
    """The best of all sixteen values for each weight."""
    values = (np.arange(16) - zero) * scale
    return values[np.abs(weight[..., None] - values).argmin(-1)]


def rounded(weight: np.ndarray, size: int, shrink: float = 1.0) -> np.ndarray:
    found = np.empty_like(weight)
    for row, begin in itertools.product(range(len(weight)), range(0, weight.shape[1], size)):
        part = weight[row, begin : begin + size]
        found[row, begin : begin + size] = nearest(part, *grid_of(part, shrink))
    return found


def output_error(x: np.ndarray, delta: np.ndarray) -> float:
    return float(np.square(x @ delta.T).sum())


@given(*SHAPES)
@settings(max_examples=40, deadline=None)
def test_every_weight_is_rounded_to_the_best_of_sixteen_values(n, groups, size, seed):
    weight, _ = layer(n, groups, size, seed)
    given_ = float32(weight)
    ours = quantize_weight(given_, *ranges(given_, size)).dequantize().double().numpy()
    best = np.abs(rounded(weight, size) - weight)
    assert (np.abs(ours - weight) <= best + TIE * best.max()).all()


@given(*SHAPES, st.booleans())
@settings(max_examples=25, deadline=None)
def test_no_scale_of_the_grid_is_better_than_the_one_chosen(n, groups, size, seed, shared):
    weight, x = layer(n, groups, size, seed)
    k = weight.shape[1]
    slots = np.arange(k) % max(k // 2, 1) if shared else np.arange(k)
    choice = search_scale(float32(weight), statistics(x), size, torch.tensor(slots) if shared else None)

    def mean_of_slot(values: np.ndarray) -> np.ndarray:
        return np.array([values[slots == slot].mean() for slot in slots])

    largest = np.abs(weight).reshape(n, groups, size).max(-1).clip(1e-8).repeat(size, 1)
    magnitude = mean_of_slot((np.abs(weight) / largest).mean(0))
    activity = mean_of_slot(np.abs(x).mean(0))
    activity = (activity / activity.mean()).clip(1e-3)

    def error(scale: np.ndarray) -> float:
        return output_error(x, rounded(weight * scale, size) / scale - weight)

    errors = [error(np.ones(k))]
    for ratio in np.arange(11) / 10:
        for divisor in (1.0, magnitude ** (1 - ratio) + 1e-4):
            scale = (activity**ratio / divisor).clip(1e-4)
            errors.append(error(scale / np.sqrt(scale.max() * scale.min())))
    found = choice.scale.double().numpy()
    assert error(found) <= min(errors) * 1.01 + 1e-6
    assert choice.error == pytest.approx(error(found), rel=0.01, abs=1e-4)
    assert np.allclose(found, mean_of_slot(found))


@given(*SHAPES)
@settings(max_examples=25, deadline=None)
def test_no_narrower_range_of_the_grid_is_better_than_the_one_chosen(n, groups, size, seed):
    weight, x = layer(n, groups, size, seed)
    given_ = float32(weight)
    low, high = search_ranges(given_, statistics(x).H, size)
    ours = quantize_weight(given_, low, high).dequantize().double().numpy() - weight
    for row, begin in itertools.product(range(n), range(0, groups * size, size)):
        part = slice(begin, begin + size)
        group, inputs = weight[row, part], x[:, part]
        errors = [
            output_error(inputs, (nearest(group, *grid_of(group, 1 - step / 20)) - group)[None]) for step in range(10)
        ]
        assert output_error(inputs, ours[row, part][None]) <= min(errors) * 1.01 + 1e-5


def column_by_column(
    weight: np.ndarray, damped: np.ndarray, order: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """GPTQ by its definition: after each column the best change of all later ones, found anew by solving for it.

    Returns the rounded weight, and which rows never came near a tie.
    """
    now, found, clear = weight.copy(), np.empty_like(weight), np.ones(len(weight), bool)
    for at, column in enumerate(order):
        begin = column // size * size
        for row in range(len(weight)):
            scale, zero = grid_of(weight[row, begin : begin + size])
            found[row, column] = nearest(now[row, column], scale, zero)
            step = now[row, column] / scale
            inside = -zero - 0.6 < step < 15 - zero + 0.6
            clear[row] &= abs(step - np.floor(step) - 0.5) > TIE or not inside
        rest = order[at + 1 :]
        change = np.linalg.solve(damped[np.ix_(rest, rest)], damped[rest, column])
        now[:, rest] += np.outer(now[:, column] - found[:, column], change)
    return found, clear


@given(*SHAPES, st.sampled_from([0.0, 1.0]))
@settings(max_examples=25, deadline=None)
def test_columns_are_rounded_as_solving_for_each_correction_rounds_them(n, groups, size, seed, shrink):
    weight, x = layer(n, groups, size, seed)
    H = statistics(x).H
    damped = H.double().numpy() + 0
    damped += np.diag(shrink * damped.diagonal() + gptq.DAMPING * damped.diagonal().mean())
    given_ = float32(weight)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gptq, "BLOCK", 7)  # so that runs of columns end within and across groups
        rounding = ColumnRounding(H, shrink)
        ours = rounding.round(given_, *ranges(given_, size)).dequantize().double().numpy()
    expected, clear = column_by_column(weight, damped, rounding.order.flip(0).numpy(), size)
    assert np.allclose(ours[clear], expected[clear], rtol=1e-5, atol=1e-7)
    assert (H.diagonal()[rounding.order].diff() >= 0).all()


def test_rounding_columns_lies_between_the_best_of_all_choices_and_plain_rounding():
    """Three inputs: all 4096 roundings of each row, over many layers."""
    values = np.array(list(itertools.product(range(16), repeat=3)))
    totals = np.zeros(3)
    for seed in range(60):
        weight, x = layer(4, 1, 3, 5 * seed + 4)
        H, given_ = x.T @ x, float32(weight)
        ours = ColumnRounding(float32(H), 0.0).round(given_, *ranges(given_, 3)).dequantize().double().numpy()
        for row in range(4):
            scale, zero = grid_of(weight[row])
            deltas = (values - zero) * scale - weight[row]
            best = (deltas @ H * deltas).sum(1).min()
            mine = output_error(x, (ours - weight)[row : row + 1])
            assert mine >= best * (1 - 1e-4)
            totals += [best, mine, output_error(x, (nearest(weight[row], scale, zero) - weight[row])[None])]
    best, mine, plain = totals
    assert mine - best < 0.35 * (plain - best)


@given(*SHAPES)
@settings(max_examples=25, deadline=None)
def test_the_weight_that_is_aimed_at_lies_half_way_to_the_least_squares_one(n, groups, size, seed):
    weight, x = layer(n, groups, size, seed)
    rng = np.random.default_rng(seed)
    after = x + rng.normal(size=x.shape) * 0.1  # what the quantized layers before it make of the inputs
    H = after.T @ after
    damping = FOLLOW_DAMPING * H.diagonal().mean()
    # the weight whose output on `after` is nearest the float model's, drawn towards `weight` by the damping
    rows = np.vstack([after, np.sqrt(damping) * np.eye(len(H))])
    wanted = np.vstack([x @ weight.T, np.sqrt(damping) * weight.T])
    best = np.linalg.lstsq(rows, wanted, rcond=None)[0].T
    ours = followed(float32(weight), float32((x - after).T @ after), float32(H)).double().numpy()
    assert np.allclose(ours, weight + SHARE * (best - weight), atol=1e-3 * np.abs(weight).max())
