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
    for sizes in ((1, 2, 8), (9, 13, 16)):
        rows = []
        for T in sizes:
            out = torch.empty(T, 4096, dtype=torch.float16, device="cuda")
            linear.few(x[:T].contiguous(), out, "half")
            rows.append(out[0])
        assert all(torch.equal(row, rows[0]) for row in rows)


WIDE = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9, reason="needs a Hopper GPU"
)


@WIDE
@pytest.mark.parametrize("T", [1, 9, 33, 64, 100, 128, 200, 515])
@pytest.mark.parametrize(
    ("N", "K", "size", "bias"),
    [
        (176, 1152, 128, True), (128, 128, 128, False), (1152, 896, 64, True), (1152, 1536, 32, True),
        (12288, 4096, 128, False), (4096, 11008, 128, True),
    ],
)  # fmt: skip
def test_wide(N, K, size, bias, T):
    from halfbyte.kernels.gpu.wide import in_tiles_order, takes, wide_linear

    torch.manual_seed(T)
    linear, w, b = make(N, K, size, bias=bias)
    assert takes(linear)
    x = torch.randn(T, K, device="cuda").half()
    wanted = F.linear(x.double(), w, b)
    found = []
    for _ in range(2):
        out = torch.full((T, N), float("nan"), dtype=torch.float16, device="cuda")
        wide_linear(linear, in_tiles_order(x), out, "half")
        found.append(out)
    assert error(found[0], wanted) < 1e-3
    assert torch.equal(*found)
    stream = torch.randn(T, N, device="cuda")
    summed = stream.clone()
    wide_linear(linear, in_tiles_order(x), summed, "added")
    assert error(summed, stream + wanted) < 1e-3


@WIDE
@pytest.mark.parametrize("T", [9, 50, 130])
def test_wide_norm_and_gate(T):
    from halfbyte.kernels.gpu.wide import in_tiles_order, norm_rows, takes, wide_linear

    torch.manual_seed(T)
    linear, w, b = make(2 * 352, 512, 64, bias=True, gated=True)
    assert takes(linear, silu=True)
    stream, norm = torch.randn(T, 512, device="cuda") * 3, torch.rand(512, device="cuda") + 0.5
    x = F.rms_norm(stream.double(), (512,), norm.double(), EPS)
    gate, up = F.linear(x, w, b).chunk(2, -1)
    out = torch.full((T, 352), float("nan"), dtype=torch.float16, device="cuda")
    wide_linear(linear, norm_rows(stream, norm, EPS), out, "silu")
    assert error(out, in_tiles_order(F.silu(gate) * up)) < 2e-3


@WIDE
def test_a_row_is_the_same_among_as_many():
    from halfbyte.kernels.gpu.wide import in_tiles_order, wide_linear

    linear, _, _ = make(12288, 4096, 128)
    x = in_tiles_order(torch.randn(128, 4096, device="cuda").half())
    for sizes in ((1, 9, 32), (33, 50, 64), (65, 80, 96), (97, 128)):
        rows = []
        for T in sizes:
            out = torch.empty(T, 12288, dtype=torch.float16, device="cuda")
            wide_linear(linear, x[:T].contiguous(), out, "half")
            rows.append(out[0])
        assert all(torch.equal(row, rows[0]) for row in rows)


@WIDE
def test_a_span_of_many_tokens():
    """All of a span, on both ways, which differ in where they round."""
    from halfbyte.kernels.gpu.gpu_span import GpuSpan
    from halfbyte.kernels.interface import AfterAttention, Span

    def weight(N, K):
        q = torch.randint(0, 16, (N, K), dtype=torch.uint8)
        return LinearWeight(
            Int4Weight(q, torch.full((N, K // 128), 0.2 * K**-0.5).half(), torch.full((N, K // 128), 8).byte())
        )

    torch.manual_seed(0)
    after = AfterAttention(weight(512, 512), torch.rand(512) + 0.5, weight(2 * 1408, 512), weight(512, 1408))
    span = GpuSpan(Span(EPS, after, torch.rand(512) + 0.5, weight(1536, 512)), torch.device("cuda"))
    assert span.is_wide(40)
    attended, residual = torch.randn(40, 512, device="cuda").half(), torch.randn(40, 512, device="cuda")
    out, left = span(attended, residual)
    span.widens = False
    wanted, wanted_left = span(attended, residual)
    assert error(out, wanted.double()) < 3e-3
    assert error(left, wanted_left.double()) < 3e-3
