"""Products with activations of 8 bits, against float64 products of what these stand for."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from test_portable_products import DEVICE, error, exact, poisoned, span, weight

from halfbyte.kernels.gpu.gpu_span import EIGHT_FROM, GpuSpan
from halfbyte.kernels.gpu.linear import GpuLinear
from halfbyte.kernels.gpu.mode import Mode
from halfbyte.kernels.reference import ReferenceKernels, to_int8
from halfbyte.kernels.triton.eight_bits import multiply_eight, rounded_rows

MODE = Mode(portable=True, eight=True)


def rounded(x):
    q, scale = to_int8(x.cpu())
    return q * scale[..., None]


@pytest.mark.parametrize("T", [1, 130])
def test_rows_are_rounded_as_the_reference_does(T):
    torch.manual_seed(T)
    x = torch.randn(T, 100).half() * torch.logspace(-3, 3, T)[:, None]
    x[0, 5] = 0
    q, scale = rounded_rows(x.to(DEVICE))
    wanted, exact_scale = to_int8(x)
    assert torch.allclose(scale.cpu(), exact_scale)
    assert ((q.cpu().int() - wanted.int()).abs() <= 1).all()
    assert (q.cpu() != wanted).float().mean() < 1e-3
    for bad in (math.inf, math.nan):
        x[0, 3] = bad
        assert not rounded_rows(x.to(DEVICE))[1][0].isfinite()


@pytest.mark.parametrize(("N", "K", "size", "T"), [(48, 256, 128, 65), (40, 192, 64, 3), (72, 128, 32, 140)])
def test_products(N, K, size, T):
    torch.manual_seed(N)
    w = weight(N, K, size, bias=T > 100)
    linear = GpuLinear(w, DEVICE, mode=MODE)
    x = torch.randn(T, K).half()
    given, wanted = rounded_rows(x.to(DEVICE)), exact(w, rounded(x))
    out = poisoned(T, N)
    multiply_eight(linear.data, linear.group, given, linear.bias, out, N, "half")
    assert error(out, wanted) < 1e-3
    before = torch.randn(T, N, device=DEVICE)
    stream = before.clone()
    multiply_eight(linear.data, linear.group, given, linear.bias, stream, N, "added")
    assert error(stream - before, wanted) < 1e-3


def test_gate():
    torch.manual_seed(0)
    w = weight(2 * 56, 128, 64, scale=0.05, bias=True)
    linear = GpuLinear(w, DEVICE, gated=True, mode=MODE)
    x = torch.randn(9, 128).half()
    gate, up = exact(w, rounded(x)).chunk(2, -1)
    out = poisoned(9, 56)
    multiply_eight(linear.data, linear.group, rounded_rows(x.to(DEVICE)), linear.bias, out, 112, "silu")
    assert error(out, F.silu(gate) * up) < 2e-3


@pytest.mark.parametrize("T", [EIGHT_FROM - 1, EIGHT_FROM])
def test_only_large_passes_are_rounded(T):
    torch.manual_seed(T)
    given = span(64, floats=False)
    attended, residual = torch.randn(2, T, len(given.norm))
    attended = attended.half()
    wanted = ReferenceKernels().span(given)(attended.float(), residual)
    found = GpuSpan(given, DEVICE, MODE)(attended.to(DEVICE), residual.to(DEVICE))
    errors = [error(ours, theirs) for ours, theirs in zip(found, wanted, strict=True)]
    if T < EIGHT_FROM:
        assert max(errors) < 3e-3
    else:
        assert all(3e-3 < e < 3e-2 for e in errors)
