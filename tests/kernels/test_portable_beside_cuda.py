"""Every kernel in CUDA C++ beside its portable form, and both beside float64, on a GPU that has both."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from halfbyte.checkpoint.int4 import Int4Weight
from halfbyte.kernels.interface import LinearWeight, PagedBatch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
EPS = 1e-5
SHAPES = [  # N, K, group size
    (96, 256, 128), (256, 576, 64), (1024, 1536, 32), (48, 896, 896), (4096, 4096, 128), (1152, 896, 64),
]  # fmt: skip


@pytest.fixture(autouse=True)
def has_both():
    from halfbyte.kernels.gpu.portable import is_portable

    if is_portable(torch.device("cuda")):
        pytest.skip("has no CUDA C++")


def both(N, K, size):
    """The same weight both ways, and as float64."""
    from halfbyte.kernels.gpu.linear import GpuLinear
    from halfbyte.kernels.gpu.mode import Mode

    torch.manual_seed(N + K)
    q = torch.randint(0, 16, (N, K), dtype=torch.uint8)
    z = torch.randint(0, 16, (N, K // size), dtype=torch.uint8)
    w = LinearWeight(Int4Weight(q, (torch.rand(N, K // size) * 0.01 + 0.002).half(), z), torch.randn(N))
    made = [GpuLinear(w, torch.device("cuda"), mode=Mode(portable)) for portable in (False, True)]
    return *made, partial(F.linear, weight=w.weight.dequantize(torch.float64).cuda(), bias=w.bias.double().cuda())


def error(found, wanted):
    return ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()


def three(ours, portable, wanted, most):
    assert error(ours, wanted) < most
    assert error(portable, wanted) < most
    assert error(ours, portable) < most


@pytest.mark.parametrize("T", [1, 2, 7, 8, 15, 16, 33])
@pytest.mark.parametrize(("N", "K", "size"), SHAPES)
def test_stream_linear(N, K, size, T):
    cuda, triton, exact = both(N, K, size)
    x = torch.randn(T, K, device="cuda").half()
    found = torch.full((2, T, N), float("nan"), device="cuda")
    cuda.sliced(x, found[0], "float")
    triton.sliced(x, found[1], "float")
    three(*found, exact(x.double()), 1e-3)
    stream, norm = torch.randn(T, K, device="cuda") * 4, torch.rand(K, device="cuda") + 0.5
    cuda.sliced(stream, found[0], "float", norm, EPS)
    triton.sliced(stream, found[1], "float", norm, EPS)
    three(*found, exact(F.rms_norm(stream.double(), (K,), norm.double(), EPS)), 2e-3)


@pytest.mark.parametrize(("N", "K", "size"), SHAPES)
def test_dequantize_tiles(N, K, size):
    cuda, triton, _ = both(N, K, size)
    ours = cuda.matrix().clone()
    cuda.matrix().fill_(float("nan"))
    assert torch.equal(triton.matrix(), ours)


@pytest.mark.parametrize("T", [9, 64, 65, 300])
@pytest.mark.parametrize(("N", "K", "size"), SHAPES)
def test_wide_linear(N, K, size, T):
    from halfbyte.kernels.gpu.linear import is_wide
    from halfbyte.kernels.gpu.wide import in_tiles_order, takes, wide_linear

    cuda, triton, exact = both(N, K, size)
    if not is_wide(torch.device("cuda")) or not takes(cuda):
        pytest.skip("goes another way")
    x = torch.randn(T, K, device="cuda").half()
    out = torch.full((T, N), float("nan"), dtype=torch.float16, device="cuda")
    wide_linear(cuda, in_tiles_order(x), out, "half")
    three(out, triton.many(x), exact(x.double()), 1e-3)


@pytest.mark.parametrize("T", [1, 9, 130])
@pytest.mark.parametrize("K", [64, 1152, 4096, 11008])
def test_norm_rows(T, K):
    from halfbyte.kernels.gpu.linear import is_wide
    from halfbyte.kernels.gpu.wide import in_tiles_order, norm_rows

    if not is_wide(torch.device("cuda")):
        pytest.skip("is for Hopper")
    stream, norm = torch.randn(T, K, device="cuda") * 3, torch.rand(K, device="cuda") + 0.5
    portable = in_tiles_order(F.rms_norm(stream, (K,), norm, EPS).half())
    exact = in_tiles_order(F.rms_norm(stream.double(), (K,), norm.double(), EPS))
    three(norm_rows(stream, norm, EPS), portable, exact, 1e-3)


@pytest.mark.parametrize("contexts", [(1, 40, 256), (257, 1000, 3, 90)])
@pytest.mark.parametrize(("heads", "kv_heads", "d", "window"), [(8, 8, 128, None), (9, 3, 64, None), (8, 2, 128, 70)])
def test_paged_decode(heads, kv_heads, d, window, contexts):
    from halfbyte.kernels.gpu.attention import attend
    from halfbyte.kernels.gpu.mode import Mode

    torch.manual_seed(d)
    S, width = len(contexts), -(-max(contexts) // 16)
    keys, values = torch.randn(2, S * width, kv_heads, 16, d, device="cuda").half()
    tables = torch.randperm(S * width).view(S, width).int().cuda()
    batch = PagedBatch(
        torch.zeros(S, dtype=torch.int64, device="cuda"), tables, torch.arange(S + 1, dtype=torch.int32, device="cuda"),
        torch.tensor(contexts, dtype=torch.int32, device="cuda"), 1, max(contexts),
    )  # fmt: skip
    q, scale = torch.randn(S, heads, d, device="cuda").half(), d**-0.5
    found = [
        attend(q, keys, values, batch, scale, window, torch.full_like(q, float("nan")), mode=mode)
        for mode in (Mode(portable=False), Mode(portable=True), Mode(portable=False, fixed=True))
    ]
    wanted = torch.empty(S, heads, d, dtype=torch.float64, device="cuda")
    for s, context in enumerate(contexts):
        first = 0 if window is None else max(0, context - window)
        k, v = (x[tables[s].long()].transpose(0, 1).flatten(1, 2)[:, first:context].double() for x in (keys, values))
        wanted[s] = F.scaled_dot_product_attention(
            q[s].double()[:, None], k, v, scale=scale, enable_gqa=heads != kv_heads
        )[:, 0]
    three(found[0], found[1], wanted, 1e-3)
    assert error(found[2], wanted) < 1e-3
