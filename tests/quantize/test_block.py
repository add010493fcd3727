"""Folding scales must leave the function of a block as it was."""

from __future__ import annotations

import pytest
import torch
from tiny_network import tiny_config

from halfbyte.kernels.interface import AfterAttention, LinearWeight
from halfbyte.models.network import Block
from halfbyte.models.rope import Rope
from halfbyte.quantize.awq_search import ScaleChoice
from halfbyte.quantize.block import fold_scales, modules, quantize_block, shared_value_channels
from halfbyte.quantize.calibrate import Calibrator


def a_block(c, bias: bool) -> Block:
    g = torch.Generator().manual_seed(0)

    def linear(n: int, k: int) -> LinearWeight:
        return LinearWeight(torch.randn(n, k, generator=g) / k**0.5, torch.randn(n, generator=g) if bias else None)

    q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    norm = 1 + torch.randn(c.hidden_size, generator=g) / 4
    after = AfterAttention(
        linear(c.hidden_size, q), norm.flip(0), linear(2 * c.intermediate_size, c.hidden_size),
        linear(c.hidden_size, c.intermediate_size),
    )  # fmt: skip
    return Block(norm, linear(q + 2 * kv, c.hidden_size), None, None, after)


def run(c, block, samples=3):
    hidden = torch.randn(samples, 20, c.hidden_size, generator=torch.Generator().manual_seed(1))
    calibrator = Calibrator(c, Rope(c), hidden)
    stats = calibrator.through(block, 0)
    return calibrator.hidden, stats


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize("bias", [False, True])
def test_folded_scales_change_nothing(kv_heads, bias):
    c = tiny_config(num_kv_heads=kv_heads)
    block = a_block(c, bias)
    before, _ = run(c, block)
    slots = shared_value_channels(c)
    widths = {name: w.weight.shape[1] for name, w in block.linears().items()}
    choices = {name: ScaleChoice(torch.rand(k) + 0.5, "x", 0.5, 0, 0) for name, k in widths.items()}
    choices["o"].scale = (torch.rand(kv_heads * c.head_dim) + 0.5)[slots]
    fold_scales(block, choices, c)
    after, _ = run(c, block)
    assert torch.allclose(before, after, atol=1e-4)


def test_quantizing_lowers_the_error_of_every_stack_and_keeps_rows_in_order():
    c = tiny_config()
    block = a_block(c, bias=True)
    _, stats = run(c, block, samples=8)
    float_rows = {name: w.weight.clone() for name, w in block.linears().items()}
    linears = list(quantize_block(block, stats, c, 16))
    names = [part for parts in modules(c).values() for part in parts]
    assert [(x.name, x.weight.q.shape[0]) for x in linears] == names
    for x in linears:
        assert x.report.error_after <= x.report.error_before * 1.0001
    scaled = block.linears()["qkv"].weight
    packed = torch.cat([x.weight.dequantize() for x in linears[:3]])
    assert (packed - scaled).norm() / scaled.norm() < 0.12
    assert not torch.equal(scaled, float_rows["qkv"])


def test_micro_batches_change_nothing(monkeypatch):
    c = tiny_config()
    whole, stats = run(c, a_block(c, bias=False), samples=5)
    monkeypatch.setattr("halfbyte.quantize.calibrate.MICRO_BATCH_TOKENS", 30)
    parts, stats_of_parts = run(c, a_block(c, bias=False), samples=5)
    assert torch.allclose(whole, parts, atol=1e-5)
    for name, s in stats.items():
        assert torch.allclose(s.H, stats_of_parts[name].H, rtol=1e-3, atol=1e-3)
        assert s.rows == stats_of_parts[name].rows == 100
