"""Triton's rotation, cache and attention against the reference, in the interpreter where there is no GPU."""

from __future__ import annotations

import pytest
import torch

from halfbyte.kernels import reference
from halfbyte.kernels.interface import PagedBatch
from halfbyte.models.rope import rotate

pytest.importorskip("triton", reason="triton is for Linux only")

from halfbyte.kernels.gpu.attention import MOST_SHARING, attend
from halfbyte.kernels.gpu.wide import in_tiles_order
from halfbyte.kernels.triton.paged_attention import paged_attention, pieces_of
from halfbyte.kernels.triton.rope_store import rope_store

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BLOCK = 16


@pytest.mark.parametrize(
    ("counts", "contexts", "heads", "kv_heads", "d", "window", "norms"),
    [
        ([1, 1, 1], [5, 300, 600], 6, 2, 64, None, False),  # several pieces
        ([1, 1], [1, 40], 4, 4, 32, 17, True),
        ([5, 1, 40], [5, 33, 90], 6, 2, 64, None, False),  # chunks beside a decoding sequence
        ([30], [130], 9, 3, 64, 20, False),
        ([1, 1, 20, 1, 7], [300, 12, 150, 20, 90], 10, 2, 32, None, False),  # decoding ones first
        ([80], [290], 2, 2, 128, None, False),  # several tiles, past of whole Ns
    ],
)
def test_attention_is_the_references(counts, contexts, heads, kv_heads, d, window, norms):
    torch.manual_seed(0)
    sequences, T = len(counts), sum(counts)
    width = max(-(-context // BLOCK) for context in contexts) + 1
    blocks = sequences * width + 1
    # what is not written is NaN: it must not be read
    keys = torch.full((blocks, kv_heads, BLOCK, d), float("nan")).half()
    values = keys.clone()
    tables = torch.randperm(blocks - 1)[: sequences * width].view(sequences, width).int()

    def slot(s, i):
        return int(tables[s, i // BLOCK]) * BLOCK + i % BLOCK

    for s, context in enumerate(contexts):
        for i in range(context - counts[s]):
            block, place = divmod(slot(s, i), BLOCK)
            keys[block, :, place], values[block, :, place] = torch.randn(2, kv_heads, d).half()
    slots = [slot(s, i) for s in range(sequences) for i in range(contexts[s] - counts[s], contexts[s])]
    batch = PagedBatch(
        torch.tensor(slots), tables, torch.tensor([0, *counts]).cumsum(0).int(), torch.tensor(contexts).int(),
        max(counts), max(contexts),
    )  # fmt: skip
    qkv = torch.randn(T, (heads + 2 * kv_heads) * d).half()
    angles = torch.rand(T, 1, d // 2) * 6
    cos, sin = torch.cat((angles.cos(),) * 2, -1), torch.cat((-angles.sin(), angles.sin()), -1)
    q, k, v = qkv.float().view(T, -1, d).split_with_sizes((heads, kv_heads, kv_heads), 1)
    weights = (torch.rand(d) + 0.5, torch.rand(d) + 0.5) if norms else None
    if weights:
        q, k = (reference.rms_norm(x, w, 1e-6) for x, w in zip((q, k), weights, strict=True))
    scale = d**-0.5
    wanted = reference.paged_attention(
        rotate(q, cos, sin), rotate(k, cos, sin), v, keys.float(), values.float(), batch, scale, window
    )
    batch = PagedBatch(
        batch.slot_mapping.to(DEVICE), tables.to(DEVICE), batch.query_start.to(DEVICE), batch.context_lens.to(DEVICE),
        max(counts), max(contexts),
    )  # fmt: skip
    qkv, cos, sin, keys, values = (x.to(DEVICE) for x in (qkv, cos, sin, keys, values))
    turned = torch.empty(T, heads, d, dtype=torch.float16, device=DEVICE)
    norms_there = weights and tuple(w.to(DEVICE) for w in weights)
    eight = DEVICE == "cpu" and T > 5  # heads of a program: the interpreter takes as long for one
    rope_store(qkv, cos, sin, turned, keys, values, batch.slot_mapping, norms_there, 1e-6, fixed=eight)
    out = torch.full_like(turned, float("nan"))
    paged_attention(turned, keys, values, batch, scale, window, out)
    assert (out.flatten(1).cpu().float() - wanted).norm() < 1e-3 * wanted.norm()
    tiled = torch.full_like(turned, float("nan"))
    paged_attention(turned, keys, values, batch, scale, window, tiled, tiled=True)
    assert torch.equal(tiled.flatten(1), in_tiles_order(out.flatten(1)))
    batch.singles = next((i for i, count in enumerate(counts) if count > 1), 0)
    batch.singles_context = max(contexts[: batch.singles], default=0)
    if DEVICE == "cuda" or heads // kv_heads > MOST_SHARING:  # what a GPU really does; others need one
        attend(turned, keys, values, batch, scale, window, out)
        assert (out.flatten(1).cpu().float() - wanted).norm() < 1e-3 * wanted.norm()
        attend(turned, keys, values, batch, scale, window, tiled, tiled=True)
        assert torch.equal(tiled.flatten(1), in_tiles_order(out.flatten(1)))


@pytest.mark.parametrize("counts", [[1, 1], [3, 30]])
def test_eight_bits(counts):
    """Keys and values of 8 bits: as if the numbers in the cache had been float16."""
    torch.manual_seed(0)
    heads, kv_heads, d, T, contexts = 4, 2, 64, sum(counts), [40, 300]
    tables = torch.arange(40, dtype=torch.int32, device=DEVICE).view(2, 20)
    slots = [
        int(tables[s, i // BLOCK]) * BLOCK + i % BLOCK for s, n in enumerate(contexts) for i in range(n - counts[s], n)
    ]
    batch = PagedBatch(
        torch.tensor(slots, device=DEVICE), tables, torch.tensor([0, *counts]).cumsum(0).int().to(DEVICE),
        torch.tensor(contexts, dtype=torch.int32, device=DEVICE), max(counts), max(contexts),
    )  # fmt: skip
    keys, values = torch.randn(2, 40, kv_heads, BLOCK, d, device=DEVICE).to(torch.float8_e4m3fn)
    qkv = torch.randn(T, (heads + 2 * kv_heads) * d, device=DEVICE).half()
    cos, sin = torch.ones(T, 1, d, device=DEVICE), torch.zeros(T, 1, d, device=DEVICE)
    q = torch.empty(T, heads, d, dtype=torch.float16, device=DEVICE)
    rope_store(qkv, cos, sin, q, keys, values, batch.slot_mapping, None, 1e-6, fixed=DEVICE == "cpu" and T > 5)
    given = qkv.view(T, -1, d)[:, heads : heads + kv_heads].float()
    block, place = batch.slot_mapping // BLOCK, batch.slot_mapping % BLOCK
    stored = keys[block, :, place].float()
    if DEVICE == "cuda":
        assert torch.equal(stored, given.to(torch.float8_e4m3fn).float())
    else:  # the interpreter drops the carry when it rounds up to a power of two
        assert ((stored - given).abs() <= given.abs() / 2 + 2**-9).all()
    out, wanted = torch.empty(2, *q.shape, dtype=torch.float16, device=DEVICE)
    paged_attention(q, keys, values, batch, 0.125, None, out)
    paged_attention(q, keys.half(), values.half(), batch, 0.125, None, wanted)
    if DEVICE == "cuda":
        found = attend(q, keys, values, batch, 0.125, None, torch.empty_like(out))
        assert (found.float() - wanted.float()).norm() < 1e-3 * wanted.float().norm()
    assert (out.float() - wanted.float()).norm() < 1e-3 * wanted.float().norm()


def test_pieces_do_not_depend_on_company():
    def batch(longest):
        none = torch.zeros(1, dtype=torch.int32)
        return PagedBatch(none, none, none, none, 1, longest)

    assert [pieces_of(batch(n)) for n in (1, 256, 257, 1000, 16000)] == [1, 1, 2, 4, 64]
