"""A network dealt out to several ranks computes what the whole one does, whatever heads, groups and containers it has."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from thread_ranks import on_all
from tiny_network import tiny_config
from tiny_repository import write_repository

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.int4 import IntWeight
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.part import part_of
from halfbyte.errors import ConfigError
from halfbyte.models.attend import WholeSequences
from halfbyte.models.loader import load_network
from halfbyte.models.share import describe, divide

TOKENS = torch.arange(24) * 7 % 250


def states(network):
    hidden = network.forward(TOKENS, torch.arange(24), WholeSequences(network.config, 1))
    if network.share is None or network.share.rank == 0:
        return hidden, network.logits(hidden)
    network.head.follow(len(hidden), hidden.shape[1], network.device)
    return hidden, None


def assert_same(folder, ranks, compute="float32", atol=2e-4):
    def load(collective=None):
        return load_network(Checkpoint(open_source(folder)), compute, device="cpu", collective=collective)

    hidden, logits = states(load())
    found = on_all(ranks, lambda collective: states(load(collective)))
    assert all(torch.equal(each, found[0][0]) for each, _ in found), "ranks differ"
    assert torch.allclose(found[0][0], hidden, atol=atol)
    assert torch.allclose(found[0][1], logits, atol=atol * 10)


@pytest.mark.parametrize(
    ("ranks", "changes"),
    [
        (2, {}),
        (4, {"attention_bias": True, "mlp_bias": True}),  # twice as many as key-value heads
        (4, {"num_attention_heads": 8, "num_key_value_heads": 1}),
        (2, {"num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 36, "intermediate_size": 40}),
        (3, {"num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": False}),
        (2, {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 16}),
    ],
)
def test_shares_compute_the_whole(tmp_path, ranks, changes):
    assert_same(write_repository(tmp_path, **changes), ranks)


def test_groups_stay_whole_where_they_do_not_divide():
    """Llama-2-7B: 11008 is 86 groups of 128."""
    config = tiny_config(hidden_size=4096, intermediate_size=11008, num_heads=32, num_kv_heads=32, head_dim=128)
    shares = divide(config, 4, 128)
    assert [len(s.mlp) for s in shares] == [21 * 128, 21 * 128, 22 * 128, 22 * 128]
    assert [s.mlp.start for s in shares[1:]] == [s.mlp.stop for s in shares[:-1]]
    assert shares[-1].mlp.stop == 11008
    assert describe(shares) == "heads: 8 each; key-value heads: 8 each; columns of the MLP: 2688, 2688, 2816, 2816"
    # one group too few for all: it is cut
    assert [len(s.mlp) for s in divide(replace(config, intermediate_size=256), 4, 128)] == [64] * 4


@pytest.mark.parametrize(
    ("ranks", "heads", "message"),
    [(3, (4, 2), "4 query heads on 2 key-value heads .*up to 2, or 4"), (5, (9, 3), "up to 3, or 9")],
)
def test_heads_that_cannot_be_dealt_out(ranks, heads, message):
    config = tiny_config(num_heads=heads[0], num_kv_heads=heads[1])
    with pytest.raises(ConfigError, match=message):
        divide(config, ranks)


def test_a_part_stands_for_the_same_weights():
    generator = torch.Generator().manual_seed(0)
    q = torch.randint(16, (8, 96), generator=generator, dtype=torch.uint8)
    z = torch.randint(16, (8, 3), generator=generator, dtype=torch.uint8)
    s, low = torch.rand(2, 8, 3, generator=generator)
    order = torch.randperm(96, generator=generator) // 32
    for weight in (IntWeight(q, s, z), IntWeight(q, s, z, low=low), IntWeight(q, s, z, g_idx=order)):
        for inputs in (range(32, 96), range(48), range(80, 96)):
            part = part_of(weight, range(2, 7), inputs)
            assert torch.equal(part.dequantize(), weight.dequantize()[2:7, inputs.start : inputs.stop])


def test_parts_are_read_alone_where_they_can_be(smollm2_awq, tmp_path, monkeypatch):
    tiny = write_repository(tmp_path)
    for folder, prefix, borders in (
        (smollm2_awq, "model.layers.0.mlp.down_proj", [(range(8, 64), range(64, 256)), (range(4), range(48))]),
        (tiny, "model.layers.0.mlp.up_proj", [(range(3, 9), range(32))]),
    ):
        checkpoint = Checkpoint(open_source(folder))
        for outputs, inputs in borders:
            found, expected = (
                checkpoint.part(prefix, outputs, inputs),
                part_of(checkpoint.stored(prefix), outputs, inputs),
            )
            found, expected = (x.dequantize() if isinstance(x, IntWeight) else x for x in (found, expected))
            assert torch.equal(found, expected)
    monkeypatch.setattr(Checkpoint, "stored", None)
    Checkpoint(open_source(smollm2_awq)).part("model.layers.0.self_attn.q_proj", range(64), range(576))


def test_smollm2_in_4_bits(smollm2_awq):
    """Three key-value heads for two ranks, and groups of 32."""
    assert_same(smollm2_awq, 2)
