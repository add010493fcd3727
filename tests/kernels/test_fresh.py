"""Prompts that begin in the pass: their keys and values are left aside, and attended as they lie there."""

from __future__ import annotations

import pytest
import torch

from halfbyte.kernels import reference
from halfbyte.kernels.interface import PagedBatch, PassShape
from halfbyte.models.rope import rotate

pytest.importorskip("triton", reason="triton is for Linux only")

from halfbyte.kernels.gpu.attention import attend
from halfbyte.kernels.gpu.beginning import Beginning
from halfbyte.kernels.gpu.fresh import Fresh
from halfbyte.kernels.gpu.wide import in_tiles_order
from halfbyte.kernels.triton.rope_store import rope_store

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BLOCK = 16


def batch_of(counts, pasts, singles):
    """Sequences with so many new tokens behind so many old ones, in shuffled pages."""
    contexts = [new + old for new, old in zip(counts, pasts, strict=True)]
    blocks = [-(-c // BLOCK) for c in contexts]
    order = torch.randperm(sum(blocks)).int()
    table = torch.full((len(counts), max(blocks)), 10**6, dtype=torch.int32)
    slots = []
    for s, count in enumerate(blocks):
        table[s, :count] = order[sum(blocks[:s]) :][:count]
        slots += [int(table[s, i // BLOCK]) * BLOCK + i % BLOCK for i in range(pasts[s], contexts[s])]
    starts = [0, *torch.tensor(counts).cumsum(0).tolist()]
    begin = next(i for i in range(len(pasts) + 1) if not any(pasts[i:]))
    return PagedBatch(
        torch.tensor(slots), table, torch.tensor(starts, dtype=torch.int32), torch.tensor(contexts, dtype=torch.int32),
        max(counts), max(contexts), singles, max(contexts[:singles], default=0),
        len(counts) - begin, starts[begin], max(counts[begin:], default=0),
    ), sum(blocks)  # fmt: skip


def moved(batch: PagedBatch) -> PagedBatch:
    names = PagedBatch.__dataclass_fields__
    values = [getattr(batch, name) for name in names]
    return PagedBatch(*(x.to(DEVICE) if isinstance(x, torch.Tensor) else x for x in values))


@pytest.mark.parametrize(
    ("counts", "pasts", "singles"),
    [
        ([200], [0], 0),
        ([70, 64, 1, 130], [0, 0, 0, 0], 0),
        ([1, 1, 40, 100, 30], [30, 5, 90, 0, 0], 2),
        ([1, 1, 90], [300, 17, 0], 2),
        ([5, 100], [7, 0], 0),
    ],
)
@pytest.mark.parametrize(("heads", "kv_heads", "d", "window"), [(4, 4, 128, None), (6, 2, 64, 50)])
def test_they_are_attended_as_by_pages(counts, pasts, singles, heads, kv_heads, d, window):
    torch.manual_seed(len(counts))
    if DEVICE == "cpu":  # where Triton's interpreter takes 15 ms for a head, or for eight of them where `fixed`
        counts = [min(count, 3) for count in counts]
    batch, blocks = batch_of(counts, pasts, singles)
    T = sum(counts)
    caches = [torch.randn(blocks, kv_heads, BLOCK, d).half() for _ in range(2)]
    qkv = torch.randn(T, heads + 2 * kv_heads, d).half()
    angle = torch.randn(T, 1, d // 2)
    cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat((-angle.sin(), angle.sin()), -1)
    turned = rotate(qkv.float(), cos, sin)
    q, k, v = turned[:, :heads], turned[:, heads : heads + kv_heads].half(), qkv[:, heads + kv_heads :]
    ours = [cache.clone().to(DEVICE) for cache in caches]
    there, q_there = moved(batch), torch.empty(T, heads, d, dtype=torch.float16, device=DEVICE)
    for tiled in (False, True):
        fresh = Fresh(there, kv_heads, d, torch.float16)
        fresh.keys.fill_(float("nan"))
        fresh.values.fill_(float("nan"))
        rope_store(
            qkv.flatten(1).to(DEVICE), cos.to(DEVICE), sin.to(DEVICE), q_there, *ours, there.slot_mapping, None, 1e-5,
            fresh=fresh.place(), tiled=tiled, fixed=tiled and DEVICE == "cpu",
        )  # fmt: skip
        order = in_tiles_order if tiled else torch.Tensor.contiguous
        torch.testing.assert_close(fresh.keys.cpu(), k[fresh.start :], atol=2e-3, rtol=2e-3)
        assert torch.equal(fresh.values.cpu().flatten(1), order(v[fresh.start :].flatten(1)))
        if DEVICE == "cpu":  # FlashAttention is for GPUs
            continue
        assert Fresh.of(there, heads, kv_heads, d, torch.float16) is not None
        out = torch.full_like(q_there, float("nan"))
        found = attend(q_there, *ours, there, d**-0.5, window, out, tiled=tiled, fresh=fresh).flatten(1).float().cpu()
        wide = [cache.float() for cache in caches]
        wanted = order(reference.paged_attention(q, k.float(), v.float(), *wide, batch, d**-0.5, window))
        assert ((found - wanted).norm() / wanted.norm()).item() < 2e-3


def test_a_pass_begins_as_torch_begins_it():
    embedding = torch.randn(100, 1100, device=DEVICE).half()

    def turned(positions):
        angle = positions[:, None, None].float().cpu() * (10000.0 ** (-torch.arange(48) / 48))
        return torch.cat([angle.cos()] * 2, -1), torch.cat((-angle.sin(), angle.sin()), -1)

    def angles(limit):
        return turned(torch.arange(limit))

    def begin(tokens, positions, lengths):
        return embedding.index_select(0, tokens).float(), *(x.to(DEVICE) for x in turned(positions))

    tokens, positions = torch.tensor([[5, 99, 0], [0, 700, 1023]], device=DEVICE)
    beginning = Beginning(PassShape(1, 1, 96, 1e-5, [None], begin, embedding, angles), torch.device(DEVICE))
    places = []
    for limit in (1024, 256, 2048):
        found = beginning(tokens % 100, positions % limit, None, limit)
        assert all(torch.equal(a, b) for a, b in zip(found, begin(tokens, positions % limit, None), strict=True))
        places.append(beginning.tables[-1][0].data_ptr())
    # a recorded step reads the table that it was recorded with
    assert places[0] == places[1] == beginning.tables[0][0].data_ptr() != places[2]


def test_where_lengths_turn_heads_a_pass_begins_with_them():
    seen = []
    shape = PassShape(1, 1, 96, 1e-5, [None], lambda *given: seen.append(given) or (1, 2, 3), torch.zeros(4, 4))
    assert Beginning(shape, torch.device(DEVICE))("tokens", "positions", "lengths", 256) == (1, 2, 3)
    assert seen == [("tokens", "positions", "lengths")]
