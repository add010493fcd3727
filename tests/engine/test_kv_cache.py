"""SequenceCache: a prompt in any pieces and then token by token gives what one pass over the whole gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_network import random_network, tiny_config

from halfbyte.checkpoint.config import RopeConfig
from halfbyte.engine import kv_cache
from halfbyte.engine.kv_cache import SequenceCache
from halfbyte.engine.runner import next_logits
from halfbyte.models.attend import WholeSequences

CONFIGS = {
    "gqa": tiny_config(),
    "mha": tiny_config(num_kv_heads=6),
    "window": tiny_config(sliding_windows=(5, 5, 5)),
    "window of one": tiny_config(sliding_windows=(1, 1, 1)),
    "some windows": tiny_config(sliding_windows=(None, 7, 3)),
}
TOKENS = torch.randint(0, 96, (40,), generator=torch.Generator().manual_seed(0))


def whole(network, tokens):
    return network.forward(tokens, torch.arange(len(tokens)), WholeSequences(network.config, 1))


def in_pieces(network, tokens, pieces, cache):
    hidden, done = [], 0
    for size in pieces:
        part = slice(done, done + size)
        hidden.append(network.forward(tokens[part], torch.arange(done, done + size), cache))
        done += size
        assert cache.length == done
    return torch.cat(hidden)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("pieces", [[40], [1] * 40, [16, 16, 1, 1, 1, 1, 1, 1, 1, 1], [3, 1, 30, 1, 5]], ids=str)
def test_equals_one_pass(monkeypatch, name, pieces):
    monkeypatch.setattr(kv_cache, "FIRST_SIZE", 4)
    network = random_network(CONFIGS[name])
    ours = in_pieces(network, TOKENS, pieces, SequenceCache(network.config, 40))
    assert (ours - whole(network, TOKENS)).abs().max() < 2e-5


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.lists(st.one_of(st.none(), st.integers(1, 12)), min_size=3, max_size=3),
)
def test_any_pieces_and_windows(pieces, windows):
    network = random_network(tiny_config(sliding_windows=tuple(windows)))
    tokens = TOKENS.repeat(3)[: sum(pieces)]
    ours = in_pieces(network, tokens, pieces, SequenceCache(network.config, len(tokens)))
    assert (ours - whole(network, tokens)).abs().max() < 2e-5


def test_a_fork_goes_on_separately():
    network = random_network(CONFIGS["gqa"])
    cache = SequenceCache(network.config, 100)
    next_logits(network, cache, TOKENS[:20].tolist())
    fork = cache.fork()
    one = next_logits(network, cache, [1, 2, 3])
    other = next_logits(network, fork, [4, 5, 6, 7])
    for logits, tail in ((one, [1, 2, 3]), (other, [4, 5, 6, 7])):
        alone = next_logits(network, SequenceCache(network.config, 100), [*TOKENS[:20].tolist(), *tail])
        assert (logits - alone).abs().max() < 1e-4
    assert (cache.length, fork.length) == (23, 24)


def test_a_pass_that_fails_leaves_it_as_it_was():
    network = random_network(CONFIGS["gqa"])
    cache = SequenceCache(network.config, 100)
    next_logits(network, cache, [1, 2, 3])

    def failing(layer, q, k, v):
        if layer == 1:
            raise KeyboardInterrupt
        return cache(layer, q, k, v)

    with pytest.raises(KeyboardInterrupt):
        network.forward(torch.tensor([9]), torch.tensor([3]), failing)
    after = next_logits(network, cache, [4])
    assert (after - next_logits(network, SequenceCache(network.config, 100), [1, 2, 3, 4])).abs().max() < 1e-4


def test_it_grows_by_doubling_and_not_over_its_capacity():
    config = CONFIGS["gqa"]
    network = random_network(config)
    cache = SequenceCache(config, 300)
    sizes = []
    for _ in range(3):
        next_logits(network, cache, TOKENS.repeat(3)[:100].tolist())
        sizes.append(cache._store.shape[3])
    assert sizes == [128, 256, 300]


@pytest.mark.parametrize("chunk", [1, 7, 512])
def test_dynamic_scaling_sees_the_whole_prompt_in_every_chunk(chunk):
    config = tiny_config(max_position_embeddings=16, rope=RopeConfig(rope_type="dynamic", factor=4.0))
    network = random_network(config)
    expected = network.logits(whole(network, TOKENS)[-1:])
    ours = next_logits(network, SequenceCache(config, 64), TOKENS.tolist(), chunk)
    assert (ours - expected).abs().max() < 1e-4


def test_it_may_be_used_outside_inference_mode():
    config = CONFIGS["gqa"]
    cache = SequenceCache(config, 300)
    shapes = [(2, 6, 8), (2, 2, 8), (2, 2, 8)]
    for layer in range(3):
        assert cache(layer, *(torch.randn(s) for s in shapes)).shape == (2, 48)
    next_logits(random_network(config), cache, [1] * 200)
    for layer in range(3):
        cache(layer, *(torch.randn(s) for s in shapes))
    assert cache.length == 204
