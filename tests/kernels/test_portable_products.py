"""Products in Triton with weights in tiles, and spans made of them, against float64: in the interpreter or on a GPU.

On a GPU with CUDA C++ the same weights go through its kernels too, and both are held to the reference.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from halfbyte.checkpoint.int4 import Int4Weight
from halfbyte.kernels.interface import AfterAttention, LinearWeight, Span
from halfbyte.kernels.reference import ReferenceKernels

pytest.importorskip("triton", reason="triton is for Linux only")

from halfbyte.kernels.gpu.gpu_span import GpuSpan
from halfbyte.kernels.gpu.linear import GpuLinear
from halfbyte.kernels.gpu.mode import Mode
from halfbyte.kernels.gpu.portable import is_portable
from halfbyte.kernels.triton.linear import Cut, finish, multiply_floats, multiply_tiles
from halfbyte.kernels.triton.tiles import dequantize_tiles

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TRITON, EPS = Mode(portable=True), 1e-5
WAYS = [TRITON] if is_portable(DEVICE) else [TRITON, Mode(portable=False)]  # that a weight can go on this machine
SHAPES = [  # N, K, group size; one row a group for the last two
    (48, 256, 128), (40, 192, 64), (72, 192, 32), (16, 576, 576), (24, 896, 896), (56, 512, 256),
]  # fmt: skip


def weight(N, K, size, *, scale=0.01, bias=False):
    q = torch.randint(0, 16, (N, K), dtype=torch.uint8)
    z = torch.randint(0, 16, (N, K // size), dtype=torch.uint8)
    s = ((torch.rand(N, K // size) + 0.2) * scale).half()
    return LinearWeight(Int4Weight(q, s, z), torch.randn(N) * scale * 10 if bias else None)


def poisoned(*shape, dtype=torch.float16):
    return torch.full(shape, float("nan"), dtype=dtype, device=DEVICE)


def error(found, wanted):
    return ((found.double().cpu() - wanted.double().cpu()).norm() / wanted.double().norm().cpu()).item()


def exact(w, x):
    return F.linear(x.double().cpu(), w.weight.dequantize(torch.float64), None if w.bias is None else w.bias.double())


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "triton" if way.portable else "cuda")
@pytest.mark.parametrize("T", [1, 3, 16, 17, 40] if DEVICE.type == "cuda" else [1, 17])
@pytest.mark.parametrize(("N", "K", "size"), SHAPES)
def test_few_tokens(N, K, size, T, way):
    torch.manual_seed(N + T)
    w = weight(N, K, size, bias=T % 2 == 1)
    linear = GpuLinear(w, DEVICE, mode=way)
    x = torch.randn(T, K).half().to(DEVICE)
    wanted = exact(w, x)
    out = poisoned(T, N)
    linear.sliced(x, out, "half")
    assert error(out, wanted) < 1e-3
    wide = poisoned(T, N, dtype=torch.float32)
    linear.sliced(x, wide, "float")
    assert error(wide, wanted) < 1e-5
    before = torch.randn(T, N, device=DEVICE)
    stream = before.clone()
    linear.sliced(x, stream, "added")
    assert error(stream - before, wanted) < 1e-3


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "triton" if way.portable else "cuda")
@pytest.mark.parametrize(("N", "K", "size"), SHAPES)
def test_the_matrix_is_the_weight(N, K, size, way):
    torch.manual_seed(N)
    w = weight(N, K, size)
    linear = GpuLinear(w, DEVICE, mode=way)
    assert linear.group > 0
    linear.matrix().fill_(float("nan"))
    assert torch.equal(linear.matrix().cpu(), w.weight.dequantize().half())


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "triton" if way.portable else "cuda")
@pytest.mark.parametrize("scale", [6e-8, 1e-5, 30.0])
def test_extreme_scales(scale, way):
    """From the smallest float16 there is, to sums near the largest."""
    torch.manual_seed(1)
    w = weight(48, 256, 64, scale=scale)
    linear = GpuLinear(w, DEVICE, mode=way)
    x = (torch.randn(5, 256) * (1e-2 if scale > 1 else 1e2)).half().to(DEVICE)
    out = poisoned(5, 48, dtype=torch.float32)
    linear.sliced(x, out, "float")
    assert error(out, exact(w, x)) < 1e-5
    large = torch.full((1, 256), 65504.0, dtype=torch.float16, device=DEVICE)
    half = poisoned(1, 48)
    linear.sliced(large, half, "half")
    wanted = exact(w, large)
    assert torch.equal(half.isfinite().cpu(), wanted.abs() < 65520)  # what does not fit is infinite, not wrong


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "triton" if way.portable else "cuda")
@pytest.mark.parametrize("T", [1, 5])
def test_norm_and_gate(T, way):
    torch.manual_seed(T)
    w = weight(2 * 56, 256, 32, scale=0.05, bias=True)
    linear = GpuLinear(w, DEVICE, gated=True, mode=way)
    stream, norm = torch.randn(T, 256) * 3, torch.rand(256) + 0.5
    x = F.rms_norm(stream.double(), (256,), norm.double(), EPS)
    gate, up = exact(w, x).chunk(2, -1)
    out = poisoned(T, 56)
    linear.sliced(stream.to(DEVICE), out, "silu", norm.to(DEVICE), EPS)
    assert error(out, F.silu(gate) * up) < 2e-3


@pytest.mark.parametrize("cut", [Cut(rows=1), Cut(rows=1, tiles=4, warps=2), Cut(tiles=4, warps=2, programs=1)])
@pytest.mark.parametrize("group", [128, 64, 32])
def test_every_way_to_cut(cut, group):
    torch.manual_seed(group)
    w = weight(40, 256 if group == 32 else 512, group)
    linear = GpuLinear(w, DEVICE, mode=TRITON)
    x = torch.randn(3, linear.K).half().to(DEVICE)
    out = poisoned(3, 40, dtype=torch.float32)
    finish(multiply_tiles(linear.data, linear.group, x, cut), None, out, "float")
    assert error(out, exact(w, x)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize(("N", "K"), [(48, 64), (7, 100), (33, 576)])
@pytest.mark.parametrize("rows", [1, 16])
def test_floats_of_any_shape(N, K, rows, dtype):
    torch.manual_seed(N)
    w, x = (torch.randn(n, K).to(DEVICE, dtype) for n in (N, 3))
    out = poisoned(3, N, dtype=torch.float32)
    finish(multiply_floats(w, x, Cut(rows=rows)), None, out, "float")
    assert error(out, x.double() @ w.double().T) < 1e-5


@pytest.mark.parametrize("group", [128, 32])
def test_bfloat16(group):
    torch.manual_seed(group)
    w = weight(48, 256, group)
    linear = GpuLinear(w, DEVICE, mode=Mode(portable=True, dtype=torch.bfloat16))
    x = (torch.randn(3, 256) * 1e6).to(DEVICE, torch.bfloat16)  # out of float16's reach
    out = poisoned(3, 48, dtype=torch.bfloat16)
    linear.sliced(x, out, "half")
    assert error(out, exact(w, x)) < 4e-3
    matrix = torch.empty(48, 256, dtype=torch.bfloat16, device=DEVICE)
    dequantize_tiles(linear.data, linear.group, matrix)
    assert error(matrix, w.weight.dequantize()) < 4e-3


def span(group, floats):
    hidden, ffn = (128, 192) if DEVICE.type == "cuda" else (64, 64)

    def linear(N, K):
        w = weight(N, K, group or K, scale=0.3 * K**-0.5, bias=True)
        return LinearWeight(w.weight.dequantize(), w.bias) if floats else w

    after = AfterAttention(
        linear(hidden, hidden), torch.rand(hidden) + 0.5, linear(2 * ffn, hidden), linear(hidden, ffn)
    )
    return Span(EPS, after, torch.rand(hidden) + 0.5, linear(hidden + 32, hidden))


MODES = [
    TRITON, Mode(portable=True, fixed=True), Mode(portable=True, dtype=torch.bfloat16),
    *([] if is_portable(DEVICE) else [Mode(portable=False), Mode(portable=False, fixed=True)]),
]  # fmt: skip


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("T", [1, 6, 40])
@pytest.mark.parametrize(("group", "floats"), [(64, False), (32, False), (None, True)])
def test_spans(group, floats, T, mode):
    torch.manual_seed(T)
    given = span(group, floats)
    attended, residual = torch.randn(2, T, len(given.norm))
    attended = attended.half()
    wanted = ReferenceKernels().span(given)(attended.float(), residual)
    found = GpuSpan(given, DEVICE, mode)(attended.to(DEVICE, mode.dtype), residual.to(DEVICE))
    for ours, theirs in zip(found, wanted, strict=True):
        assert error(ours, theirs) < (1e-2 if mode.dtype == torch.bfloat16 else 3e-3)


def test_what_a_device_gets(monkeypatch):
    from halfbyte.errors import KernelError
    from halfbyte.kernels.gpu.portable import SWITCH, check_device

    is_portable.cache_clear()
    monkeypatch.setenv(SWITCH, "triton")
    assert is_portable(DEVICE)
    is_portable.cache_clear()
    monkeypatch.setenv(SWITCH, "opencl")
    with pytest.raises(KernelError, match="'opencl'; it must be"):
        check_device(DEVICE)


@pytest.mark.parametrize(
    ("capability", "hip", "nvrtc", "portable"),
    [((7, 5), None, True, True), ((8, 0), None, True, False), ((9, 0), None, False, True), ((9, 4), "6.4", True, True)],
)
def test_by_machine(monkeypatch, capability, hip, nvrtc, portable):
    from halfbyte.kernels.gpu import portable as module
    from halfbyte.kernels.gpu.linear import is_wide

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(module, "has_nvrtc", lambda: nvrtc)
    monkeypatch.delenv(module.SWITCH, raising=False)
    device = torch.device("cuda")
    is_portable.cache_clear()
    assert is_portable(device) == portable
    is_portable.cache_clear()
    assert is_wide(device) == (capability[0] == 9 and hip is None)


def test_a_gpu_that_is_too_old(monkeypatch):
    from halfbyte.errors import KernelError
    from halfbyte.kernels.gpu.portable import check_device

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    with pytest.raises(KernelError, match=r"Tesla V100 is of compute capability \(7, 0\)"):
        check_device(torch.device("cuda"))


def test_what_a_gpu_before_ampere_does_not_have(monkeypatch):
    from halfbyte.errors import KernelError
    from halfbyte.kernels.gpu.choices import WITHOUT_MATRIX_UNITS, default_choices
    from halfbyte.kernels.gpu.gpu_kernels import GpuKernels
    from halfbyte.kernels.triton.device import has_matrix_units

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    device = torch.device("cuda", 7)  # that nothing is remembered of
    for cached in (is_portable, has_matrix_units):
        cached.cache_clear()
    assert default_choices(device) == WITHOUT_MATRIX_UNITS
    with pytest.raises(KernelError, match=r"bfloat16 needs compute capability \(8, 0\), which Tesla T4 has not"):
        GpuKernels(device, dtype=torch.bfloat16)
    with pytest.raises(KernelError, match=r"'fp8' needs .* 'int8' takes as little memory"):
        GpuKernels(device).kv_cache(1, 1, 16, 16, "fp8")
    for cached in (is_portable, has_matrix_units):
        cached.cache_clear()
