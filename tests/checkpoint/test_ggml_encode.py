"""Block encoders: what the gguf package reads is what was meant, and no block is worse than it need be."""

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType as T
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.checkpoint.ggml import TYPES, encode, row_bytes
from halfbyte.errors import QuantizeError

QUANTIZED = [T.Q2_K, T.Q3_K, T.Q4_0, T.Q4_1, T.Q4_K, T.Q5_0, T.Q5_1, T.Q5_K, T.Q6_K, T.Q8_0]
# Relative error of ggml's own encoders on `normal_weights`, by benchmarks/gguf_blocks.py
GGML = {T.Q2_K: 0.2969, T.Q3_K: 0.1507, T.Q4_0: 0.0859, T.Q4_1: 0.0783, T.Q4_K: 0.0714}
GGML |= {T.Q5_0: 0.0427, T.Q5_1: 0.0379, T.Q5_K: 0.0361, T.Q6_K: 0.0177, T.Q8_0: 0.00535}


def normal_weights(rows=64, inputs=512) -> torch.Tensor:
    return torch.randn(rows, inputs, generator=torch.Generator().manual_seed(0)) * 0.02


def read_back(encoded: torch.Tensor, kind: T) -> torch.Tensor:
    return torch.from_numpy(np.array(gguf.dequantize(encoded.numpy(), kind)))


def coded(x: torch.Tensor, kind: T, importance=None) -> torch.Tensor:
    return read_back(encode(x, kind, importance), kind)


def relative(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor | float = 1.0) -> float:
    return float((((x - y) ** 2 * w).sum() / (x**2 * w).sum()).sqrt())


@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
def test_more_exact_than_ggml(kind):
    x = normal_weights()
    assert relative(x, coded(x, kind)) < GGML[kind] * 0.995


@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
def test_importance_moves_error_to_channels_that_matter_less(kind):
    x = normal_weights()
    importance = torch.rand(512, generator=torch.Generator().manual_seed(1)) ** 4
    plain, weighed = coded(x, kind), coded(x, kind, importance)
    assert relative(x, weighed, importance) < relative(x, plain, importance)


@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
def test_what_was_read_loses_little_when_written_again(kind):
    once = coded(normal_weights(), kind)
    again = relative(once, coded(once, kind))
    assert again == 0 if kind in {T.Q4_0, T.Q5_0} else again < 0.15 * GGML[kind]


@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
def test_hard_blocks(kind):
    x = torch.zeros(8, 512)
    x[1] = 0.37  # constant
    x[2] = -0.37
    x[3, 5] = 1000.0  # one outlier
    x[4] = torch.linspace(0, 1e-9, 512)  # below what a float16 scale can hold
    x[5] = normal_weights(1)[0] * 1e-4  # scales among float16's denormals
    x[6] = normal_weights(1)[0].abs()  # one sign
    x[7] = 60000.0
    y = coded(x, kind)
    assert y.isfinite().all()
    assert (y[0] == 0).all()
    for row in (1, 2, 3, 7):
        assert relative(x[row], y[row]) < 0.02, row
    assert (y[4] - x[4]).abs().max() <= 1e-9
    assert relative(x[5], y[5]) < 2 * GGML[kind] + 0.1
    assert relative(x[6], y[6]) < 2 * GGML[kind]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(QUANTIZED), st.sampled_from([1e-6, 1e-3, 1.0, 3e4]), st.booleans())
def test_never_worse_than_nothing(seed, kind, size, weighted):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 512, generator=generator).clamp(-2, 2) ** 3 * size / 8
    importance = torch.rand(512, generator=generator) if weighted else None
    y = coded(x, kind, importance)
    w = 1.0 if importance is None else importance.clamp(min=1e-5 * float(importance.mean()))
    assert y.isfinite().all()
    assert ((y - x) ** 2 * w).sum() <= (x**2 * w).sum() * 1.001


@pytest.mark.parametrize(("kind", "levels"), [(T.Q4_0, 8), (T.Q5_0, 16)], ids=["Q4_0", "Q5_0"])
def test_near_the_best_of_all_scales(kind, levels):
    x = normal_weights(6, 32)
    every = torch.arange(1, 0x3000, dtype=torch.int16).view(torch.float16).float()  # all half floats up to 1/8
    for row, found in zip(x, ((x - coded(x, kind)) ** 2).sum(1), strict=True):
        best = min(
            float((((row / d).round().clamp(-levels, levels - 1) * d - row) ** 2).sum(1).min())
            for d in (every[:, None], -every[:, None])
        )
        assert found <= best * 1.05


def test_near_the_best_of_all_scales_and_offsets():
    x = normal_weights(4, 32)
    for row, found in zip(x, ((x - coded(x, T.Q4_1)) ** 2).sum(1), strict=True):
        span = row.max() - row.min()
        d = (torch.linspace(0.7, 1.1, 161) * span / 15)[:, None, None]
        m = (row.min() + torch.linspace(-0.1, 0.15, 101) * span)[None, :, None]
        best = (((((row - m) / d).round().clamp(0, 15) * d + m) - row) ** 2).sum(-1).min()
        assert found <= best * 1.05


@pytest.mark.parametrize("kind", [T.F32, T.F16, T.BF16], ids=lambda kind: kind.name)
def test_floats_are_rounded_to_nearest(kind):
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind.name]
    x = normal_weights(3, 32)
    assert torch.equal(encode(x, kind).view(dtype), x.to(dtype))


@pytest.mark.parametrize("kind", [T.F16, *QUANTIZED], ids=lambda kind: kind.name)
def test_what_float16_cannot_hold_is_refused(kind):
    x = torch.zeros(1, 256)
    x[0, 3] = 1e6
    with pytest.raises(QuantizeError, match=r"blk\.0\.w holds 1e\+06.*bf16"):
        encode(x, kind, name="blk.0.w")


def test_threads_do_not_change_a_byte():
    x, before = normal_weights(300), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = encode(x, T.Q4_K)
        torch.set_num_threads(2)
        assert torch.equal(encode(x, T.Q4_K), one)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_every_type_has_its_size():
    for kind in TYPES:
        assert encode(torch.zeros(2, 512), kind).shape == (2, row_bytes(512, kind))
