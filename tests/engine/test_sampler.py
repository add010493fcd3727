"""The sampler against a naive float64 one, and what a row's neighbours must not change."""

from __future__ import annotations

import math
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from halfbyte.engine import sampler
from halfbyte.engine.logit_edits import penalize
from halfbyte.engine.random_numbers import keys
from halfbyte.engine.sampler import sample
from halfbyte.engine.sampler_row import SamplerRow
from halfbyte.engine.sampling_params import SamplingParams

GRID = 4000


def naive_probabilities(logits: np.ndarray, p: SamplingParams, seen: tuple[int, ...] = ()) -> np.ndarray:
    """Repetition penalty, temperature, min_p, top_k, top_p, each written as its definition says."""
    x = logits.astype(np.float64)
    for token in set(seen):
        x[token] = x[token] / p.repetition_penalty if x[token] > 0 else x[token] * p.repetition_penalty
    x = x / p.temperature
    x[np.exp(x - x.max()) < p.min_p] = -np.inf
    order = np.argsort(-x, kind="stable")
    if p.top_k > 0:
        x[order[p.top_k :]] = -np.inf
    probabilities = np.exp(x - x.max())
    probabilities /= probabilities.sum()
    before = np.cumsum(probabilities[order]) - probabilities[order]
    probabilities[order[before >= p.top_p]] = 0
    return probabilities / probabilities.sum()


def evenly(ids: torch.Tensor, weights: torch.Tensor, columns: sampler.Columns) -> torch.Tensor:
    """In place of a race: rows take their part of the candidates one after the other, each as many as is its share."""
    sums = weights.cumsum(-1)
    places = (columns.key.double() + 0.5) / GRID * sums[:, -1:]
    return ids.expand_as(weights).gather(-1, torch.searchsorted(sums, places, right=True))[:, 0]


def distribution(logits: torch.Tensor, params: SamplingParams) -> np.ndarray:
    """What the sampler draws when chance is spread evenly over GRID rows."""
    key = torch.arange(GRID)[:, None]
    way = sampler._way(params, logits.shape[0])
    numbers = torch.tensor([SamplerRow(params, 0, []).numbers], dtype=torch.float64).expand(GRID, -1)
    columns = sampler.Columns(numbers, key, params.min_p > 0, may_wait=True)
    with patch.object(sampler, "race", evenly), patch.object(sampler, "uniform", lambda key: (key + 0.5) / GRID):
        tokens = way(logits.expand(GRID, -1).clone(), columns)
    return np.bincount(tokens.numpy(), minlength=logits.shape[0]) / GRID


@pytest.fixture(params=["C", "torch"])
def way(request):
    """On a CPU our own C samples; the other way is a GPU's."""
    before = sampler.can_sample
    sampler.can_sample = before if request.param == "C" else lambda rows: False
    yield
    sampler.can_sample = before


parameters = st.builds(
    SamplingParams,
    temperature=st.floats(0.1, 3),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.1]),
    top_k=st.sampled_from([0, -1, 1, 3, 8, 40]),
    min_p=st.sampled_from([0.0, 0.05, 0.3]),
)
different_logits = st.lists(st.integers(-4000, 4000), min_size=2, max_size=60, unique=True).map(
    lambda xs: torch.tensor(xs, dtype=torch.float32) / 700
)


@settings(deadline=None, max_examples=150)
@given(different_logits, parameters)
def test_equals_the_naive_sampler(logits, params):
    ours, expected = distribution(logits, params), naive_probabilities(logits.numpy(), params)
    assert np.abs(ours - expected).max() < 1.5 / GRID


@pytest.mark.parametrize("nucleus", [4, 256])
def test_top_p_is_exact_where_the_first_candidates_are_not_enough(monkeypatch, nucleus):
    monkeypatch.setattr(sampler, "NUCLEUS", nucleus)
    logits = torch.randn(2000, generator=torch.Generator().manual_seed(1))
    params = SamplingParams(top_p=0.9)
    expected = naive_probabilities(logits.numpy(), params)
    ours = distribution(logits, params)
    assert np.abs(ours - expected).max() < 1.5 / GRID
    assert set(np.flatnonzero(ours)) <= set(np.flatnonzero(expected))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.8, top_p=0.95),
        SamplingParams(temperature=1.3),
        SamplingParams(temperature=0.7, top_k=12, top_p=0.9),
        SamplingParams(temperature=1.0, repetition_penalty=1.5),
    ],
)
def test_drawn_tokens_follow_the_distribution(params):
    """Chi-square over 8000 draws, each with its own seed; 1 in 1000 is the level."""
    count, seen = 8000, (0, 3, 5)
    logits = torch.randn(40, generator=torch.Generator().manual_seed(7)) * 2
    rows = [SamplerRow(params, seed, seen) for seed in range(count)]
    tokens = np.array(sample(logits.expand(count, -1).clone(), rows))
    expected = naive_probabilities(logits.numpy(), params, seen) * count
    observed = np.bincount(tokens, minlength=40)
    assert observed[expected == 0].sum() == 0
    common = expected >= 5
    rare = ~common & (expected > 0)
    cells = [*zip(observed[common], expected[common], strict=True)]
    if expected[rare].sum() >= 5:
        cells.append((observed[rare].sum(), expected[rare].sum()))
    chi2 = sum((o - e) ** 2 / e for o, e in cells)
    degrees = len(cells) - 1
    limit = degrees * (1 - 2 / (9 * degrees) + 3.09 * math.sqrt(2 / (9 * degrees))) ** 3  # Wilson-Hilferty
    assert chi2 < limit


def test_a_race_is_won_by_share():
    """Chi-square over 20,000 races of 7, whose order among the candidates does not matter."""
    weights = torch.tensor([0.5, 1e-3, 1.0, 0.0, 0.2, 0.9, 0.04], dtype=torch.float64)
    key = torch.from_numpy(keys(list(range(200)) * 100, [step for step in range(100) for _ in range(200)]))[:, None]
    columns, ids = sampler.Columns(torch.empty(0), key, has_min_p=False, may_wait=True), torch.arange(50, 57)
    tokens = sampler.race(ids[None], weights.expand(len(key), -1), columns)
    order = torch.tensor([3, 6, 0, 5, 4, 1, 2])
    assert torch.equal(sampler.race(ids[order][None], weights[order].expand(len(key), -1), columns), tokens)
    observed = np.bincount(tokens.numpy() - 50, minlength=7)
    expected = (weights / weights.sum()).numpy() * len(key)
    assert observed[3] == 0
    there = expected > 0
    assert ((observed - expected)[there] ** 2 / expected[there]).sum() < 20.5  # 1 in 1000, of 5 degrees


def test_a_race_changes_only_where_two_are_close():
    """With logits that differ by what another order of sums makes, nearly all draws stay what they were."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3000, 400, generator=generator) * 2
    rows = [SamplerRow(SamplingParams(temperature=0.8, top_p=0.95), seed, []) for seed in range(len(logits))]
    moved = logits + torch.randn(logits.shape, generator=generator) * 1e-3
    with patch.object(sampler, "can_sample", lambda row: False):  # as on a GPU
        same = sum(a == b for a, b in zip(sample(logits.clone(), rows), sample(moved, rows), strict=True))
    assert same > 0.995 * len(logits)


@pytest.mark.parametrize("params", [SamplingParams(top_p=0.5), SamplingParams(top_k=2)])
def test_of_equally_likely_ones_all_are_kept(params):
    """For the order in which they come is not the row's alone."""
    logits = torch.tensor([[0.0, 3.0, -2.0, 3.0, 3.0, 1.0]])
    rows = [SamplerRow(params, seed, []) for seed in range(300)]
    with patch.object(sampler, "can_sample", lambda row: False):  # as on a GPU
        counts = np.bincount(sample(logits.repeat(300, 1), rows), minlength=6)
    assert counts[[0, 2, 5]].sum() == 0
    assert counts[[1, 3, 4]].min() > 60


mixed = st.lists(
    st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.0, 0.7, 1.0]),
        top_p=st.sampled_from([1.0, 0.9]),
        top_k=st.sampled_from([0, 5, 200, 256]),
        min_p=st.sampled_from([0.0, 0.1]),
        repetition_penalty=st.sampled_from([1.0, 1.2]),
        seed=st.integers(0, 2**64 - 1),
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.usefixtures("way")
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mixed, st.integers(0, 1000))
def test_a_row_draws_the_same_alone_and_in_any_batch(params, logits_seed):
    steps, vocabulary = 3, 700
    logits = torch.randn(steps, len(params), vocabulary, generator=torch.Generator().manual_seed(logits_seed)) * 3

    def run(members):
        rows = [SamplerRow(params[i], params[i].seed, [1, 2, 3]) for i in members]
        out = []
        for step in range(steps):
            tokens = sample(logits[step][members].clone(), rows)
            for row, token in zip(rows, tokens, strict=True):
                row.record(token)
            out.append(tokens)
        return [list(x) for x in zip(*out, strict=True)]

    together = run(list(range(len(params))))
    assert together == [run([i])[0] for i in range(len(params))]


def test_greedy_takes_the_lowest_id_of_equals():
    logits = torch.tensor([[0.0, 2.0, 1.0, 2.0]])
    assert sample(logits, [SamplerRow(SamplingParams(temperature=0), 0, [])]) == [1]


def test_temperature_near_zero_is_greedy():
    rows = [SamplerRow(SamplingParams(temperature=t), 0, []) for t in (1e-300, 1e-6, 1e-4)]
    assert sample(torch.tensor([[0.0, 5.0, 4.0]]).repeat(3, 1), rows) == [1, 1, 1]


@pytest.mark.parametrize(
    "params", [SamplingParams(temperature=0), SamplingParams(), SamplingParams(top_p=0.9), SamplingParams(top_k=3)]
)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_end_their_row_only(params, bad):
    logits = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    good = sample(logits[[0, 2]].clone(), [SamplerRow(params, 5, []) for _ in range(2)])
    logits[1, 4] = bad
    first, broken, last = sample(logits, [SamplerRow(params, 5, []) for _ in range(3)])
    assert (broken, [first, last]) == (None, good)


def test_repetition_penalty_is_transformers():
    from transformers import RepetitionPenaltyLogitsProcessor

    logits = torch.randn(2, 300, generator=torch.Generator().manual_seed(0))
    prompt, answer = [1, 1, 2, 40], list(range(100, 260))
    rows = [SamplerRow(SamplingParams(repetition_penalty=p), 0, prompt) for p in (1.3, 1.0)]
    for row in rows:
        for token in answer:
            row.record(token)
    ours = logits.clone()
    penalize(ours, rows)
    expected = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([prompt + answer]), logits[:1].clone())
    assert torch.equal(ours[0], expected[0])
    assert torch.equal(ours[1], logits[1])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"top_k": 5}, {"top_k": 5}),
        ({"top_p": 0.7}, {"top_p": 0.7}),
        ({"min_p": 0.2}, {"min_p": 0.2}),
        ({"top_k": 8, "top_p": 0.8, "temperature": 0.6}, {"top_k": 8, "top_p": 0.8, "temperature": 0.6}),
    ],
)
def test_kept_tokens_are_transformers(ours, theirs):
    from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    warpers = {
        "temperature": TemperatureLogitsWarper,
        "top_k": TopKLogitsWarper,
        "top_p": TopPLogitsWarper,
        "min_p": MinPLogitsWarper,
    }
    logits = torch.randn(60, generator=torch.Generator().manual_seed(3)) * 2
    scores = logits[None]
    for name, warper in warpers.items():
        if name in theirs:
            scores = warper(theirs[name])(None, scores)
    probabilities = scores.softmax(-1)[0].numpy()
    assert np.abs(distribution(logits, SamplingParams(**ours)) - probabilities).max() < 1.5 / GRID


def test_banned_tokens_are_not_drawn():
    row = SamplerRow(SamplingParams(temperature=0, min_tokens=1), 0, [], ends=(2, 0))
    assert sample(torch.tensor([[5.0, 1.0, 9.0, 3.0]]), [row]) == [3]


def test_a_rows_draw_does_not_depend_on_the_ways_of_others():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(40, 300, generator=generator) * 3
    params = SamplingParams(temperature=0.9, top_p=0.9), SamplingParams(temperature=0.9, typical_p=0.8)
    rows = [SamplerRow(params[i % 3 == 0], i, []) for i in range(len(logits))]
    alone = [sample(logits[i : i + 1].clone(), rows[i : i + 1])[0] for i in range(len(rows))]
    assert sample(logits.clone(), rows) == alone
