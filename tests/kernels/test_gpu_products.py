"""The weights' stream and the matrices made of tiles, on a GPU, against float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from halfbyte.checkpoint.int4 import Int4Weight
from halfbyte.kernels.interface import LinearWeight

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
EPS = 1e-5


def make(N, K, size, *, bias=False, gated=False):
    from halfbyte.kernels.gpu.linear import GpuLinear

    if size:
        q = torch.randint(0, 16, (N, K), dtype=torch.uint8)
        z = torch.randint(0, 16, (N, K // size), dtype=torch.uint8)
        weight = Int4Weight(q, (torch.rand(N, K // size) * 0.01 + 0.002).half(), z)
        plain = weight.dequantize(torch.float64)
    else:
        weight = (torch.randn(N, K) * K**-0.5).half()
        plain = weight.double()
    b = torch.randn(N) if bias else None
    linear = GpuLinear(LinearWeight(weight, b), torch.device("cuda"), gated=gated)
    return linear, plain.cuda(), None if b is None else b.double().cuda()


def error(found, wanted):
    return ((found.double() - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("T", [1, 3, 8, 9, 16])
@pytest.mark.parametrize(
    ("N", "K", "size", "bias"),
    [(96, 256, 128, True), (256, 576, 64, False), (160, 896, 128, True), (1024, 1536, 32, True), (48, 576, 0, False)],
)
def test_few_and_many(N, K, size, bias, T):
    torch.manual_seed(T)
    linear, w, b = make(N, K, size, bias=bias)
    x = torch.randn(T, K, device="cuda").half()
    wanted = F.linear(x.double(), w, b)
    out = torch.full((T, N), float("nan"), dtype=torch.float16, device="cuda")
    linear.few(x, out, "half")
    assert error(out, wanted) < 1e-3
    stream = torch.randn(T, N, device="cuda")
    summed = stream.clone()
    linear.few(x, summed, "added")
    assert error(summed, stream + wanted) < 1e-3
    assert error(linear.many(x), wanted) < 2e-3


@pytest.mark.parametrize("T", [1, 5, 16])
def test_norm_and_gate(T):
    torch.manual_seed(T)
    linear, w, b = make(2 * 352, 512, 64, bias=True, gated=True)
    stream, norm = torch.randn(T, 512, device="cuda") * 3, torch.rand(512, device="cuda") + 0.5
    x = F.rms_norm(stream.double(), (512,), norm.double(), EPS)
    gate, up = F.linear(x, w, b).chunk(2, -1)
    out = torch.full((T, 352), float("nan"), dtype=torch.float16, device="cuda")
    linear.few(stream, out, "silu", norm, EPS)
    assert error(out, F.silu(gate) * up) < 2e-3


def test_a_row_is_the_same_among_others():
    linear, _, _ = make(4096, 4096, 128)
    x = torch.randn(16, 4096, device="cuda").half()
    rows = []
    for T in (1, 2, 8, 13, 16):
        out = torch.empty(T, 4096, dtype=torch.float16, device="cuda")
        linear.few(x[:T].contiguous(), out, "half")
        rows.append(out[0])
    assert all(torch.equal(row, rows[0]) for row in rows)
