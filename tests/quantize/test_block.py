"""Folding scales must leave the function of a block as it was; quantizing it must change it little."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_network import tiny_config

from halfbyte.kernels.interface import AfterAttention, LinearWeight
from halfbyte.models.network import Block
from halfbyte.models.rope import Rope
from halfbyte.quantize.activations import ActivationStore
from halfbyte.quantize.block import fold_scale, modules, shared_value_channels
from halfbyte.quantize.block_quantizer import BlockQuantizer, Samples
from halfbyte.quantize.effort import RECIPES
from halfbyte.quantize.stream import Stream

LENGTH = 20
GIB = 2**30


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


def walk(c, folder, samples=8, held_out=2, budget=GIB, seed=1):
    """A store, its samples, and the two streams."""
    store = ActivationStore(samples + held_out, LENGTH, budget, folder, torch.device("cpu"))
    values = torch.randn(samples + held_out, LENGTH, c.hidden_size, generator=torch.Generator().manual_seed(seed))
    streams = []
    for _ in range(2):
        hidden = store.new(c.hidden_size)
        hidden.write(0, values)
        streams.append(Stream(c, Rope(c), hidden))
    return store, Samples(samples, held_out, LENGTH), *streams


def through(c, block, folder):
    _, samples, stream, _ = walk(c, folder)
    for part in samples.parts():
        stream.through(block, 0, part)
    return stream.hidden.read(0, 10).clone()


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize("bias", [False, True])
def test_folded_scales_change_nothing(tmp_path, kv_heads, bias):
    c = tiny_config(num_kv_heads=kv_heads)
    block = a_block(c, bias)
    before = through(c, block, tmp_path)
    slots = shared_value_channels(c)
    for name, w in block.linears().items():
        scale = torch.rand(w.weight.shape[1]) + 0.5
        if name == "o":
            scale = (torch.rand(kv_heads * c.head_dim) + 0.5)[slots]
        fold_scale(block, name, scale, c)
    assert torch.allclose(before, through(c, block, tmp_path), atol=1e-4)


def quantized(c, folder, recipe, group_size=16, kept=frozenset(), **options):
    store, samples, plain, rounded = walk(c, folder, **options)
    source = a_block(c, bias=True)
    block = copy.deepcopy(source)
    linears = BlockQuantizer(plain, rounded, samples, store, RECIPES[recipe], group_size).run(0, source, block, kept)
    return linears, block, plain, rounded


@pytest.mark.parametrize("recipe", ["rtn", "awq", "gptq", "fast", "default"])
def test_a_quantized_block_computes_nearly_what_it_did(tmp_path, recipe):
    c = tiny_config()
    linears, block, plain, rounded = quantized(c, tmp_path, recipe)
    names = [part for parts in modules(c).values() for part in parts]
    assert [(x.name, x.weight.q.shape[0]) for x in linears] == names
    if recipe != "rtn":
        assert all(x.report.error_after <= x.report.error_before * 1.1 for x in linears)
        assert sum(x.report.error_after for x in linears) < 0.9 * sum(x.report.error_before for x in linears)
    assert torch.equal(torch.cat([x.weight.dequantize() for x in linears[:3]]), block.qkv.weight)
    wanted, got = (s.hidden.read(8, 10) for s in (plain, rounded))  # held-out samples
    assert 0 < (got - wanted).norm() / wanted.norm() < 0.12


def test_following_the_float_model_beats_not_following(tmp_path):
    c = tiny_config()
    off = {}
    for recipe in ("rtn", "fast", "default"):
        _, _, plain, rounded = quantized(c, tmp_path, recipe, samples=60)
        wanted, got = (s.hidden.read(60, 62) for s in (plain, rounded))
        off[recipe] = ((got - wanted).norm() / wanted.norm()).item()
    assert off["default"] < off["fast"] < off["rtn"]


def test_replaying_a_block_gives_the_same_bits(tmp_path):
    c = tiny_config()
    _, block, plain, rounded = quantized(c, tmp_path, "default")
    store, samples, plain_again, rounded_again = walk(c, tmp_path)
    BlockQuantizer(plain_again, rounded_again, samples, store, RECIPES["default"], 16).replay(
        0, a_block(c, bias=True), block
    )
    for one, other in ((plain, plain_again), (rounded, rounded_again)):
        assert torch.equal(one.hidden.read(0, 10), other.hidden.read(0, 10))


def test_activations_in_a_file_change_nothing(tmp_path):
    c = tiny_config()
    in_memory, _, _, rounded = quantized(c, tmp_path, "default")
    in_file, _, _, rounded_in_file = quantized(c, tmp_path, "default", budget=0)
    assert all(torch.equal(a.weight.q, b.weight.q) for a, b in zip(in_memory, in_file, strict=True))
    assert torch.equal(rounded.hidden.read(0, 10), rounded_in_file.hidden.read(0, 10))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kept", [{"qkv"}, {"gate_up"}, {"down"}, {"qkv", "o", "gate_up"}])
@pytest.mark.parametrize("recipe", ["fast", "default"])
def test_linears_that_stay_float_are_not_touched(tmp_path, kept, recipe):
    c = tiny_config()
    linears, block, plain, rounded = quantized(c, tmp_path, recipe, kept=frozenset(kept))
    source = a_block(c, bias=True)
    for name in kept:
        assert not {m for m, _ in modules(c)[name]} & {x.name for x in linears}
        assert torch.equal(block.linears()[name].weight, source.linears()[name].weight.half().float())
    wanted, got = (s.hidden.read(8, 10) for s in (plain, rounded))
    assert (got - wanted).norm() / wanted.norm() < 0.12


def test_micro_batches_change_little(tmp_path, monkeypatch):
    c = tiny_config()
    _, _, plain, rounded = quantized(c, tmp_path, "default")
    monkeypatch.setattr("halfbyte.quantize.stream.MICRO_BATCH_TOKENS", 60)
    _, _, plain_in_parts, rounded_in_parts = quantized(c, tmp_path, "default")
    assert torch.allclose(plain.hidden.read(0, 10), plain_in_parts.hidden.read(0, 10), atol=1e-5)
    wanted, got = rounded.hidden.read(0, 10), rounded_in_parts.hidden.read(0, 10)
    assert (got - wanted).norm() / wanted.norm() < 0.05
