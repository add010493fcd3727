"""Tokens drawn by our own C, by every instruction set that runs here, against a naive float64 sampler."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_cases import HERE, library

from halfbyte.kernels.draw import draw_tokens

GRID = 1000


def naive(logits: np.ndarray, temperature: float, top_p: float, top_k: int, min_p: float) -> np.ndarray:
    """Probabilities: temperature, min_p, top_k, top_p, each as its definition says."""
    x = logits.astype(np.float64) / temperature
    x[np.exp(x - x.max()) < min_p] = -np.inf
    order = np.argsort(-x, kind="stable")
    x[order[top_k or len(x) :]] = -np.inf
    p = np.exp(x - x.max())
    p /= p.sum()
    before = np.cumsum(p[order]) - p[order]
    p[order[before >= top_p]] = 0
    return p / p.sum()


def drawn(logits: torch.Tensor, numbers: tuple[float, ...], allowed: np.ndarray | None = None) -> np.ndarray:
    """How often each token comes when the random number runs evenly through [0, 1)."""
    bits = None if allowed is None else np.packbits(np.resize(allowed, -(-len(allowed) // 32) * 32), bitorder="little")
    tokens, _ = draw_tokens(
        logits[None], [0] * GRID, np.array([numbers] * GRID), (np.arange(GRID) + 0.5) / GRID,
        allowed=0 if bits is None else bits.ctypes.data,
    )  # fmt: skip
    return np.bincount(tokens, minlength=len(logits)) / GRID


@pytest.fixture(params=HERE)
def by(request, monkeypatch):
    found = library(request.param)
    monkeypatch.setattr("halfbyte.kernels.cpu.library.load_library", lambda: found)


cases = st.tuples(
    st.lists(st.integers(-4000, 4000), min_size=2, max_size=150, unique=True),
    st.floats(0.1, 3),
    st.sampled_from([1.0, 0.95, 0.5, 0.1]),
    st.sampled_from([0, 1, 3, 8, 40]),
    st.sampled_from([0.0, 0.05, 0.3]),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)


@pytest.mark.usefixtures("by")
def test_what_is_drawn_is_what_the_parameters_say():
    @settings(deadline=None, max_examples=150)
    @given(cases)
    def check(case):
        values, temperature, top_p, top_k, min_p, seed, bound = case
        logits = torch.tensor(values, dtype=torch.float32) / 700
        allowed = None
        if bound:
            allowed = np.random.default_rng(seed).random(len(values)) < 0.5
            allowed[seed % len(values)] = True
        possible = logits.numpy() if allowed is None else np.where(allowed, logits.numpy(), -np.inf)
        expected = naive(possible, temperature, top_p, top_k, min_p)
        assert np.abs(drawn(logits, (temperature, top_p, top_k, min_p), allowed) - expected).max() < 2.5 / GRID

    check()


@pytest.mark.usefixtures("by")
@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("spread", [0.1, 3])
def test_a_large_vocabulary(top_p, spread):
    logits = torch.randn(5000, generator=torch.Generator().manual_seed(1)) * spread
    expected = naive(logits.numpy(), 0.9, top_p, 0, 0.0)
    ours = drawn(logits, (0.9, top_p, 0, 0.0))
    assert set(np.flatnonzero(ours)) <= set(np.flatnonzero(expected))
    largest = expected.argsort()[::-1]
    assert np.abs((ours - expected)[largest].cumsum()).max() < 3 / GRID


@pytest.mark.usefixtures("by")
@pytest.mark.parametrize("width", [1, 31, 64, 65, 200])
def test_at_temperature_0_the_first_of_the_likeliest_that_are_allowed(width):
    logits = torch.randint(-3, 4, (width,), generator=torch.Generator().manual_seed(width)).float()
    allowed = np.arange(width) % 3 != 1
    expected = np.where(allowed, logits.numpy(), -np.inf).argmax()
    assert drawn(logits, (0.0, 1.0, 0, 0.0), allowed)[expected] == 1


@pytest.mark.usefixtures("by")
def test_what_has_no_chance_and_extreme_temperatures():
    logits = torch.tensor([-np.inf, 1.0, -np.inf, 0.0])
    assert drawn(logits, (1e300, 1.0, 0, 0.0)).tolist() == [0, 0.5, 0, 0.5]
    assert drawn(logits, (1e-5, 1.0, 0, 0.0)).tolist() == [0, 1, 0, 0]
    none = np.zeros(1, np.uint32)
    assert draw_tokens(logits[None], [0], ONE, np.zeros(1), allowed=none.ctypes.data)[0] == [-1]


ONE = np.array([[1.0, 1.0, 0, 0.0]])


@pytest.mark.usefixtures("by")
def test_a_trial_that_holds_is_left_by_the_parameters_of_any_part():
    @settings(deadline=None, max_examples=100)
    @given(cases)
    def check(case):
        values, temperature, top_p, top_k, min_p, seed, _ = case
        logits, numbers = (
            torch.tensor(values, dtype=torch.float32) / 700,
            np.array([[temperature, top_p, top_k, min_p]]),
        )
        rng = np.random.default_rng(seed)
        (token,), (holds,) = draw_tokens(logits[None], [0], numbers, rng.random(1), trial=True)
        for share in (0.2, 0.8):
            part = rng.random(len(values)) < share
            part[token] = True
            left = naive(np.where(part, logits.numpy(), -np.inf), temperature, top_p, top_k, min_p)
            assert left[token] > 0 or not holds
        if top_p == 1 and not top_k and not min_p:
            assert holds

    check()


@pytest.mark.usefixtures("by")
@pytest.mark.parametrize("numbers", [(1.0, 1.0, 0, 0.0), (1.0, 0.7, 0, 0.0), (1.0, 1.0, 2, 0.0), (1.0, 1.0, 0, 0.3)])
def test_a_first_token_is_taken_if_it_is_left(numbers):
    logits = torch.tensor([3.0, 2.5, 1.0, -8.0])
    left = naive(logits.numpy(), *numbers) > 0
    for first in range(4):
        (token,), _ = draw_tokens(logits[None], [0], np.array([numbers]), np.zeros(1), first=first)
        assert token == (first if left[first] else 0)
