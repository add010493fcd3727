"""What a recorded pass reads is what it is given, whatever was there before.

Recording needs a GPU: here it is a stand-in that computes again, from where the recording reads, what it computed.
"""

from __future__ import annotations

import contextlib
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from tiny_network import tiny_config

pytest.importorskip("triton")

from halfbyte.kernels.gpu import gpu_pass
from halfbyte.kernels.interface import PagedBatch, PagedCaches, PassShape
from halfbyte.models.network import begin
from halfbyte.models.rope import Rope

BLOCK = 16


def summed(embedded, cos, sin, past, pieces):
    """Of all that a pass reads, by row."""
    batch = past.batch
    used = torch.arange(batch.block_tables.shape[1]) * BLOCK < batch.context_lens[:, None]
    tables = (batch.block_tables * used * torch.arange(1, used.shape[1] + 1)).sum(-1)
    numbers = batch.slot_mapping * 3 + batch.context_lens * 1000 + tables * 7
    return embedded + cos[:, 0].sum(-1, keepdim=True) + 2 * sin[:, 0, :4].sum(-1, keepdim=True) + numbers[:, None]


class Recorded(gpu_pass._Recorded):
    def __init__(self, whole, *given, **options):
        super().__init__(whole, *given, **options)
        self.begin, self.graph.replay = whole.shape.begin, self.replay

    def replay(self):
        begun = self.begin(self.tokens, self.positions, self.lengths)
        self.hidden.copy_(summed(*begun, SimpleNamespace(batch=self.batch), 1))


@pytest.fixture
def whole(monkeypatch):
    there = contextlib.nullcontext()
    stream = SimpleNamespace(wait_stream=lambda _: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: there)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(pool=lambda: (0, 1)))
    monkeypatch.setattr(gpu_pass, "_Recorded", Recorded)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, pool: there)
    monkeypatch.setattr(gpu_pass.GpuPass, "run", lambda self, *given: summed(*given))
    embedding = torch.randn(96, 32, generator=torch.Generator().manual_seed(0))
    shape = PassShape(6, 2, 8, 1e-5, [None] * 3, partial(begin, embedding, Rope(tiny_config())))
    found = gpu_pass.GpuPass(shape, [], torch.device("cpu"))
    found.records = True  # as on a GPU
    return found


@pytest.mark.parametrize("with_lengths", [False, True])
def test_it_reads_what_it_is_given(whole, with_lengths):
    generator = torch.Generator().manual_seed(1)
    caches = [(torch.empty(4, 2, BLOCK, 8), torch.empty(4, 2, BLOCK, 8))]
    for T, longest in ((5, 200), (3, 40), (8, 250), (7, 300), (1, 1), (8, 17)):
        contexts = torch.randint(1, longest + 1, (T,), generator=generator, dtype=torch.int32)
        contexts[0] = longest
        width = -(-longest // BLOCK)
        tables = torch.randint(0, 1000, (T, width), generator=generator, dtype=torch.int32)
        slots = torch.randint(0, 16000, (T,), generator=generator)
        batch = PagedBatch(slots, tables, torch.arange(T + 1, dtype=torch.int32), contexts, 1, longest)
        tokens = torch.randint(0, 96, (T,), generator=generator)
        positions = contexts.long() - 1
        lengths = contexts.long() if with_lengths else None
        past = PagedCaches(caches, batch, 1.0, [None])
        ours = whole.decode(tokens, positions, lengths, past)
        assert torch.equal(ours, summed(*whole.shape.begin(tokens, positions, lengths), past, 1))
    assert {key[0] for key in whole.recorded} == {1, 4, 8}
    many = torch.zeros(gpu_pass.SIZES[-1] + 1, dtype=torch.int64)
    assert whole.decode(many, many, None, past) is None
