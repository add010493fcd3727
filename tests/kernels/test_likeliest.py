"""The likeliest token of a row, by every instruction set that runs here and by numpy."""

from __future__ import annotations

import math

import pytest
import torch
from native_cases import HERE, library

from halfbyte.kernels.cpu import library as libraries
from halfbyte.kernels.likeliest import NOT_FINITE, likeliest


@pytest.fixture(params=[*HERE, "numpy"])
def by(request, monkeypatch):
    found = None if request.param == "numpy" else library(request.param)
    monkeypatch.setattr(libraries, "load_library", lambda: found)


@pytest.mark.usefixtures("by")
@pytest.mark.parametrize("width", [1, 5, 16, 63, 500])
def test_the_first_of_the_largest(width):
    g = torch.Generator().manual_seed(width)
    logits = torch.randint(-4, 5, (37, width), generator=g).float()
    logits[3:6] = -logits[3:6].abs() - 1
    assert torch.equal(likeliest(logits), torch.from_numpy(logits.numpy().argmax(-1)))


@pytest.mark.usefixtures("by")
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_wherever_it_is_not(odd):
    for width in (20, 48):
        logits = torch.arange(1.0, width + 1).repeat(width + 1, 1)
        for place in range(width):
            logits[place, place] = odd
        assert likeliest(logits).tolist() == [NOT_FINITE] * width + [width - 1]
    largest = torch.tensor([[-1.0, torch.finfo(torch.float32).max, 2.0] * 7])
    assert likeliest(largest).tolist() == [1]
