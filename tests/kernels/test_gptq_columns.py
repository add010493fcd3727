"""The Triton kernel of GPTQ's inner loop against the loop in torch; on a CPU in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton", reason="triton is for Linux only")

from halfbyte.kernels.triton.gptq_columns import round_run  # noqa: E402
from halfbyte.quantize import gptq  # noqa: E402


@pytest.mark.parametrize(("columns", "rows", "size"), [(128, 40, 32), (56, 33, 8), (1, 3, 1), (100, 64, 50)])
@pytest.mark.parametrize("scale", [1.0, 1e-4, 3e3])
def test_it_rounds_as_torch_does(columns, rows, size, scale):
    g = torch.Generator().manual_seed(columns)
    weight = torch.randn(columns, rows, generator=g) * scale
    scales = (torch.rand(columns // size, rows, generator=g) * 0.3 + 0.1) * scale
    zeros = torch.randint(0, 16, (columns // size, rows), generator=g).float()
    group = (torch.arange(columns) // size)[torch.randperm(columns, generator=g)]
    x = torch.randn(4 * columns, columns, generator=g) @ torch.randn(columns, columns, generator=g)
    lower = gptq.factor(x.T @ x, torch.arange(columns), 0.0)
    upper = gptq.inverse_runs(lower)[0, :columns, :columns]
    inputs = (weight, scales[group], zeros[group], upper)
    expected = gptq._round_run(*(t.clone() for t in inputs), 15)
    steps = round_run(*(t.to(DEVICE) for t in inputs), 15).cpu()
    assert (steps != expected).float().mean() < 0.01  # values half-way between two levels, and what follows from them


def test_a_group_of_zeros_stays_zero():
    weight, zeros = torch.zeros(16, 8, device=DEVICE), torch.zeros(16, 8, device=DEVICE)
    steps = round_run(weight, torch.ones(16, 8, device=DEVICE), zeros, torch.eye(16, device=DEVICE), 15)
    assert not steps.any()
