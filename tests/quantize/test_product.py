"""The quantizer's large products against float64: on a CPU in float32, on a GPU from scaled float16."""

from __future__ import annotations

import pytest
import torch
from tiny_sources import a_source

from halfbyte.quantize import QuantizeOptions, quantize
from halfbyte.quantize.product import LastHalved, add_products, halved, product

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=on_a_gpu)]
TOLERANCE = {"cpu": 1e-5, "cuda": 2e-3}  # of the product's norm


def relative(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((got.double() - wanted).norm() / wanted.norm().clamp(min=1e-300)).item()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [1e-12, 1e-3, 1.0, 3e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_a_product(device, size, dtype, bias):
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(40, 64, generator=g) * size, (torch.randn(24, 64, generator=g) / 8).to(dtype)
    b = torch.randn(24, generator=g) * size if bias else None
    wanted = x.double() @ weight.double().T + (0 if b is None else b.double())
    got = product(x.to(device), weight.to(device), None if b is None else b.to(device)).cpu()
    assert got.dtype == torch.float32
    assert relative(got, wanted) < TOLERANCE[device]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("loud", [1.0, 1e4])  # one channel of so many times the others
def test_sums_of_outer_products(device, loud):
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 200, 48, generator=g).to(device)
    x[:, 5] *= loud
    whole, below = torch.zeros(2, 48, 48, device=device)
    for rows in (slice(0, 150), slice(150, 200)):
        add_products(whole, x[rows], y[rows])
        add_products(below, x[rows], x[rows], below=20)
    x, y = x.double().cpu(), y.double().cpu()
    assert relative(whole.cpu(), x.T @ y) < TOLERANCE[device]
    wanted, got = (x.T @ x).tril(), below.cpu().tril()
    own = wanted.diagonal().sqrt()
    assert ((got.double() - wanted) / own / own[:, None]).abs().max() < TOLERANCE[device]  # quiet channels too


@pytest.mark.parametrize("values", [torch.zeros(3, 4), torch.full((3, 4), 1e-44), torch.full((3, 4), 3e38)])
def test_extremes_neither_overflow_nor_become_nan(values):
    half, down = halved(values)
    assert half.isfinite().all()
    assert torch.allclose(half.double() * down.double(), values.double(), rtol=1e-3, atol=1e-43)


def test_what_was_halved_last_is_made_anew_when_it_changes():
    last, values = LastHalved(), torch.randn(4, 8)
    first = last.halved(values)
    assert last.halved(values) is first
    values[1:3] *= 2  # by a view
    changed = last.halved(values)
    assert changed is not first
    assert torch.equal(changed[0], halved(values)[0])
    assert last.halved(torch.ones(4, 8)) is not changed
    assert torch.equal(last.halved(values)[0], changed[0])
    del values
    assert last.halves is None  # nothing is held for a tensor that is gone


@on_a_gpu
@pytest.mark.parametrize("effort", ["awq", "gptq", "default", "best"])
def test_a_gpu_quantizes_as_well_as_a_cpu(tmp_path, effort):
    source = a_source(tmp_path / "source", num_hidden_layers=3, torch_dtype="float16")
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{i} bottles of beer on the wall. " for i in range(4000)))
    found = {}
    for device in ("cpu", "cuda"):
        options = QuantizeOptions(samples=16, seq_len=64, calib=str(text), effort=effort, device=device)
        found[device] = quantize(source, tmp_path / device, options).held_out["kl_divergence"]
    assert found["cuda"] == pytest.approx(found["cpu"], rel=0.1)
