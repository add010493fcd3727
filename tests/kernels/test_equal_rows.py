"""A row's results are the same, bit for bit, whatever else is in the call: the ground that exact batching stands on."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from native_cases import HERE, native

from halfbyte.checkpoint.int4 import Int4Weight
from halfbyte.kernels.cpu.onnx_kernels import OnnxKernels
from halfbyte.kernels.interface import AfterAttention, LinearWeight, Span
from halfbyte.kernels.reference import ReferenceKernels

ROWS = 70
CUTS = [1, 2, 3, 5, 8, 9, 15, 17, 33]


def weight(n: int, k: int, group: int | None) -> LinearWeight:
    if group is None:
        return LinearWeight(torch.randn(n, k) / k**0.5, torch.randn(n))
    q = torch.randint(0, 16, (n, k), dtype=torch.uint8)
    scale = (torch.rand(n, k // group) * 0.02 + 0.001).half()
    return LinearWeight(Int4Weight(q, scale, torch.randint(5, 11, (n, k // group), dtype=torch.uint8)))


def span(group: int | None, hidden: int, mlp: int) -> Span:
    after = AfterAttention(
        weight(hidden, hidden, group), torch.rand(hidden), weight(2 * mlp, hidden, group), weight(hidden, mlp, group)
    )
    return Span(1e-5, after, torch.rand(hidden), weight(hidden + 64, hidden, group))


def check(call, *inputs):
    whole = [y.clone() for y in call(*inputs)]
    for count in CUTS:
        for first in (0, ROWS - count):
            rows = slice(first, first + count)
            for ours, expected in zip(call(*(x[rows] for x in inputs)), whole, strict=True):
                assert torch.equal(ours, expected[rows]), (count, first)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


KERNELS = {
    "reference": ReferenceKernels,
    "onnx": OnnxKernels,
    "onnx in parts": lambda: OnnxKernels(adaptable=True),
    **{name: partial(native, name) for name in HERE},
    "native in parts": partial(native, adaptable=True),
}


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("group", [None, 32, 64, 128], ids=lambda g: "float" if g is None else f"g{g}")
@pytest.mark.parametrize(("hidden", "mlp"), [(128, 256), (256, 768)])
def test_spans(name, group, hidden, mlp):
    kernel = KERNELS[name]().span(span(group, hidden, mlp))
    check(kernel, torch.randn(ROWS, hidden), torch.randn(ROWS, hidden))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", ["reference", "onnx", *HERE])
@pytest.mark.parametrize(("vocabulary", "hidden"), [(257, 32), (3000, 576), (500, 40)])
def test_heads(name, vocabulary, hidden):
    head = KERNELS[name]().head(torch.randn(vocabulary, hidden))
    check(lambda x: (head(x),), torch.randn(ROWS, hidden))
