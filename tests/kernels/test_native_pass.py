"""Native attention, and whole passes against the same network span by span in float32."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from native_cases import HERE, linear_weight, native, relative
from paged_cases import CASES, Case, at_once, in_chunks, one_by_one, random_qkv, run
from tiny_network import tiny_config

from halfbyte.kernels import reference
from halfbyte.kernels.interface import AfterAttention, PagedBatch, PagedCaches
from halfbyte.kernels.reference import ReferenceKernels
from halfbyte.models.attend import WholeSequences
from halfbyte.models.network import Block, Network

MORE = {
    "several chunks": Case(4, 2, 32, (700, 256, 257)),
    "a window over chunks": Case(4, 2, 32, (700, 300), 290),
    "a window within a chunk": Case(2, 1, 32, (600,), 5),
    "wide heads": Case(2, 1, 256, (40, 3)),
    "many heads to one": Case(48, 1, 32, (30, 270)),
}
EVERY = CASES | MORE


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("isa", HERE)
def test_equals_attention_over_whole_sequences(name, isa):
    case = EVERY[name]
    whole = [x.split(case.lengths) for x in random_qkv(case)]
    for ours, q, k, v in zip(run(native(isa), case, in_chunks(case, 53)), *whole, strict=True):
        expected = reference.attention(q[None], k[None], v[None], window=case.window)[0].flatten(1)
        assert (ours - expected).abs().max() < 3e-3  # keys and values are kept in float16


@pytest.mark.parametrize("name", [*MORE, "SmolLM2's", "window"])
def test_however_it_is_cut_nothing_changes(name):
    case = EVERY[name]
    expected = run(native(), case, at_once(case))
    for passes in (one_by_one(case), in_chunks(case, 5), in_chunks(case, 100)):
        for ours, theirs in zip(run(native(), case, passes), expected, strict=True):
            assert torch.equal(ours, theirs)


def test_keys_too_large_for_float16_are_kept_as_the_largest():
    case = Case(2, 2, 32, (3,))
    kernels = native()
    caches = [kernels.kv_cache(2, 2, 16, 32).zero_() for _ in range(2)]
    q, k, v = random_qkv(case)
    result = kernels.attention(
        q * 0, k * 1e6, v, *caches, PagedBatch(*map(torch.tensor, ([16, 17, 18], [[1]], [0, 3], [3])), 3, 3), 1.0, None
    )
    assert result.isfinite().all()


class Paged:
    """An Attend with all sequences in paged caches."""

    def __init__(self, network: Network, caches, batch: PagedBatch) -> None:
        c = network.config
        self.paged = PagedCaches(caches, batch, c.head_dim**-0.5, c.sliding_windows)
        self.attention = network.kernels.attention

    def __call__(self, layer, q, k, v):
        p = self.paged
        return self.attention(q, k, v, *p.caches[layer], p.batch, p.scale, p.windows[layer])


CONFIG = tiny_config(
    hidden_size=96, intermediate_size=160, num_heads=4, num_kv_heads=2, head_dim=32, sliding_windows=(None, 40, None)
)


def a_network(kernels, config=CONFIG) -> Network:
    def weight(n, k, seed):
        w = linear_weight(n, k, 32, bias=config.qkv_bias, seed=seed)
        w.weight.z.clamp_(6, 9)
        return w

    c, g = config, torch.Generator().manual_seed(0)
    q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim

    def norm(n):
        return 1 + torch.randn(n, generator=g) / 4

    blocks = [
        Block(
            input_norm=norm(c.hidden_size),
            qkv=weight(q + 2 * kv, c.hidden_size, i),
            q_norm=norm(c.head_dim) if c.qk_norm else None,
            k_norm=norm(c.head_dim) if c.qk_norm else None,
            after=AfterAttention(
                weight(c.hidden_size, q, i + 10),
                norm(c.hidden_size),
                weight(2 * c.intermediate_size, c.hidden_size, i + 20),
                weight(c.hidden_size, c.intermediate_size, i + 30),
            ),
        )
        for i in range(c.num_layers)
    ]
    embedding = torch.randn(c.vocab_size, c.hidden_size, generator=g)
    return Network(c, embedding, blocks, norm(c.hidden_size), embedding, kernels)


TOKENS = torch.randint(0, CONFIG.vocab_size, (330,), generator=torch.Generator().manual_seed(1))


def in_pieces(network: Network, cuts: list[list[tuple[int, int, int]]], sequences: int) -> list[torch.Tensor]:
    """Hidden states of each sequence; sequence s reads TOKENS from s on. cuts: passes of (sequence, first, end)."""
    c, size = network.config, 16
    caches = [
        tuple(network.kernels.kv_cache(60, c.num_kv_heads, size, c.head_dim) for _ in "kv") for _ in range(c.num_layers)
    ]
    tables = torch.randperm(60, generator=torch.Generator().manual_seed(2)).to(torch.int32)[: sequences * 20]
    tables = tables.view(sequences, 20)
    results: list[list[torch.Tensor]] = [[] for _ in range(sequences)]
    for pieces in cuts:
        slots = [int(tables[s, i // size]) * size + i % size for s, first, end in pieces for i in range(first, end)]
        counts = torch.tensor([0, *(end - first for _, first, end in pieces)])
        batch = PagedBatch(
            torch.tensor(slots),
            tables[[s for s, *_ in pieces]],
            counts.cumsum(0).int(),
            torch.tensor([end for *_, end in pieces], dtype=torch.int32),
            int(counts.max()),
            max(end for *_, end in pieces),
        )
        tokens = torch.cat([TOKENS[s + first : s + end] for s, first, end in pieces])
        positions = torch.cat([torch.arange(first, end) for _, first, end in pieces])
        hidden = network.forward(tokens, positions, Paged(network, caches, batch))
        for (s, *_), part in zip(pieces, hidden.split(counts[1:].tolist()), strict=True):
            results[s].append(part)
    return [torch.cat(r) for r in results]


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("change", [{}, {"qkv_bias": True}, {"qk_norm": True}, {"num_kv_heads": 4}, {"head_dim": 64}])
def test_a_whole_pass_computes_the_network(isa, change):
    config = replace(CONFIG, **change)
    ours, exact = a_network(native(isa), config), a_network(ReferenceKernels(), config)
    assert ours.whole_pass is not None
    (result,) = in_pieces(ours, [[(0, 0, 100)]], 1)
    expected = exact.forward(TOKENS[:100], torch.arange(100), WholeSequences(config, 1))
    assert relative(result, expected) < 0.06
    ours.whole_pass = None
    assert relative(in_pieces(ours, [[(0, 0, 100)]], 1)[0], expected) < 0.06


def test_it_is_the_same_alone_in_a_batch_and_in_chunks():
    network = a_network(native())
    lengths = [300, 41, 280]
    together = in_pieces(network, [[(s, 0, n) for s, n in enumerate(lengths)]], 3)
    stepwise = in_pieces(
        network,
        [
            [(0, 0, 299), (1, 0, 7)],
            [(1, 7, 8), (2, 0, 100)],
            [(0, 299, 300), (1, 8, 41), (2, 100, 279)],
            [(2, 279, 280)],
        ],
        3,
    )
    for ours, theirs in zip(stepwise, together, strict=True):
        assert torch.equal(ours, theirs)


def test_heads_that_are_no_multiple_of_32_go_span_by_span():
    config = replace(CONFIG, head_dim=48, num_heads=4)
    ours, exact = a_network(native(), config), a_network(ReferenceKernels(), config)
    (result,) = in_pieces(ours, [[(0, 0, 30)]], 1)
    assert relative(result, exact.forward(TOKENS[:30], torch.arange(30), WholeSequences(config, 1))) < 0.06
