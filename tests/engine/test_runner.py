"""Runner: a prompt in any pieces and then token by token gives what one pass over the whole gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_sequence import OneSequence
from tiny_network import random_network, tiny_config

from halfbyte.checkpoint.config import RopeConfig
from halfbyte.models.attend import WholeSequences

CONFIGS = {
    "gqa": tiny_config(),
    "mha": tiny_config(num_kv_heads=6),
    "window": tiny_config(sliding_windows=(5, 5, 5)),
    "window of one": tiny_config(sliding_windows=(1, 1, 1)),
    "some windows": tiny_config(sliding_windows=(None, 7, 3)),
}
TOKENS = torch.randint(0, 96, (40,), generator=torch.Generator().manual_seed(0)).tolist()


def whole(network, tokens):
    ids = torch.tensor(tokens)
    return network.forward(ids, torch.arange(len(ids)), WholeSequences(network.config, 1))


def in_pieces(network, tokens, pieces):
    past, ends = OneSequence(network, len(tokens)), torch.tensor(pieces).cumsum(0).tolist()
    return torch.cat([past.hidden(tokens[end - size : end]) for size, end in zip(pieces, ends, strict=True)])


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("pieces", [[40], [1] * 40, [16, 16, 1, 1, 1, 1, 1, 1, 1, 1], [3, 1, 30, 1, 5]], ids=str)
def test_equals_one_pass(name, pieces):
    network = random_network(CONFIGS[name])
    ours = in_pieces(network, TOKENS, pieces)
    assert (ours - whole(network, TOKENS)).abs().max() < 2e-5
    assert torch.equal(ours, in_pieces(network, TOKENS, [40]))


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.lists(st.one_of(st.none(), st.integers(1, 12)), min_size=3, max_size=3),
)
def test_any_pieces_and_windows(pieces, windows):
    network = random_network(tiny_config(sliding_windows=tuple(windows)))
    tokens = (TOKENS * 3)[: sum(pieces)]
    ours = in_pieces(network, tokens, pieces)
    assert (ours - whole(network, tokens)).abs().max() < 2e-5
    assert torch.equal(ours, in_pieces(network, tokens, [len(tokens)]))


@pytest.mark.parametrize("chunk", [1, 7, 512])
def test_dynamic_scaling_sees_the_whole_prompt_in_every_chunk(chunk):
    config = tiny_config(max_position_embeddings=16, rope=RopeConfig(rope_type="dynamic", factor=4.0))
    network = random_network(config)
    expected = network.logits(whole(network, TOKENS)[-1:])
    ours = OneSequence(network, 64).next_logits(TOKENS, chunk)
    assert (ours - expected).abs().max() < 1e-4
