"""A step of decoding as one kernel, of either kind, against the same step by a kernel for each part, on a GPU."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from halfbyte.checkpoint.int4 import Int4Weight
from halfbyte.kernels.interface import AfterAttention, LinearWeight, PagedBatch, PagedCaches, PassShape, Span

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@dataclass
class Net:
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    d: int
    group: int
    layers: int = 2
    bias: bool = False
    qk_norm: bool = False
    window: int | None = None
    fp8: bool = False


NETS = {
    "llama": Net(512, 1408, 4, 4, 128, 128),
    "smollm": Net(576, 1536, 9, 3, 64, 32, layers=5),
    "qwen2": Net(896, 2432, 6, 2, 64, 64, bias=True),
    "qwen3": Net(1024, 3072, 8, 2, 128, 128, qk_norm=True),
    "mistral": Net(4096, 14336, 32, 8, 128, 128, window=100),
    "eight": Net(512, 1408, 4, 2, 128, 128, fp8=True),
    "wide": Net(5120, 13824, 40, 40, 128, 128, layers=1),
    "many": Net(1024, 1408, 32, 32, 128, 64),
}


def weight(N, K, group, *, bias=False):
    q = torch.randint(0, 16, (N, K), dtype=torch.uint8)
    s = ((torch.rand(N, K // group) * 0.2 + 0.9) / (4.6 * K**0.5)).half()
    z = torch.randint(4, 12, (N, K // group), dtype=torch.uint8)
    return LinearWeight(Int4Weight(q, s, z), torch.randn(N) * 0.3 if bias else None)


def make(net: Net):
    from halfbyte.kernels.gpu.gpu_kernels import GpuKernels

    device = torch.device("cuda")
    kernels = GpuKernels(device)
    spans, after = [], None
    rows = (net.heads + 2 * net.kv_heads) * net.d
    for _ in range(net.layers):
        qkv = weight(rows, net.hidden, net.group, bias=net.bias)
        spans.append(kernels.span(Span(1e-5, after, 1 + torch.randn(net.hidden) / 4, qkv)))
        after = AfterAttention(
            weight(net.hidden, net.heads * net.d, net.group, bias=net.bias), 1 + torch.randn(net.hidden) / 4,
            weight(2 * net.ffn, net.hidden, net.group), weight(net.hidden, net.ffn, net.group),
        )  # fmt: skip
    spans.append(kernels.span(Span(1e-5, after, 1 + torch.randn(net.hidden) / 4, None)))
    norms = [(1 + torch.randn(net.d) / 4, 1 + torch.randn(net.d) / 4) if net.qk_norm else None] * net.layers
    shape = PassShape(net.heads, net.kv_heads, net.d, 1e-5, norms, lambda *_: None)
    return kernels, kernels.whole_pass(shape, spans)


def given(net: Net, kernels, contexts):
    """Embedded, cos, sin, and a past whose unused places are no numbers."""
    T, block = len(contexts), 16
    blocks = [-(-max(c, 1) // block) for c in contexts]
    table = torch.full((T, max(blocks) + 3), 10**6, dtype=torch.int32)
    order = torch.randperm(sum(blocks) + 2).int()
    slots = torch.full((T,), -1)
    for s, (count, context) in enumerate(zip(blocks, contexts, strict=True)):
        table[s, :count] = order[sum(blocks[:s]) :][:count]
        if context:
            slots[s] = table[s, (context - 1) // block] * block + (context - 1) % block
    caches = []
    for _ in range(net.layers):
        pair = []
        for _ in range(2):
            cache = kernels.kv_cache(sum(blocks) + 2, net.kv_heads, block, net.d, "fp8" if net.fp8 else "auto")
            values = torch.full(cache.shape, float("nan"))
            for s, context in enumerate(contexts):
                for i in range(context - 1):
                    values[table[s, i // block], :, i % block] = torch.randn(net.kv_heads, net.d)
            pair.append(cache.copy_(values))
        caches.append(tuple(pair))
    batch = PagedBatch(
        slots.cuda(), table.cuda(), torch.arange(T + 1, dtype=torch.int32).cuda(),
        torch.tensor(contexts, dtype=torch.int32).cuda(), 1, max(contexts),
    )  # fmt: skip
    angle = torch.randn(T, 1, net.d // 2)
    cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat((-angle.sin(), angle.sin()), -1)
    past = PagedCaches(caches, batch, net.d**-0.5, [net.window] * net.layers)
    return torch.randn(T, net.hidden).cuda(), cos.cuda(), sin.cuda(), past


def error(found, wanted):
    return ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()


ALONE, PAIRED = 0, 1  # whole_step.cu, paired_step.cu

CASES = [
    (ALONE, (1,)), (ALONE, (700,)), (ALONE, (5, 90)), (ALONE, (64, 2000)),
    (PAIRED, (257,)), (PAIRED, (300, 1, 44)), (PAIRED, (257, 64, 130, 2000)), (PAIRED, (2000, 1900, 2040, 2017)),
    (PAIRED, (40, 900, 3, 1, 17, 128)), (PAIRED, tuple(range(20, 340, 40))), (PAIRED, (1500, *range(1, 240, 30))),
    (PAIRED, tuple(range(3, 339, 21))),
]  # fmt: skip


@pytest.mark.parametrize(("which", "contexts"), CASES, ids=lambda value: str(value if value in (0, 1) else len(value)))
@pytest.mark.parametrize("name", NETS)
def test_it_gives_what_the_parts_give(name, which, contexts):
    torch.manual_seed(0)
    net = NETS[name]
    kernels, whole = make(net)
    step = whole.steps[which]
    embedded, cos, sin, past = given(net, kernels, contexts)
    assert step.takes(len(contexts), past)
    copies = [tuple(cache.clone() for cache in pair) for pair in past.caches]
    found = [step(embedded, cos, sin, past).clone() for _ in range(3)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    other = PagedCaches(copies, past.batch, past.scale, past.windows)
    wanted = whole.run(embedded, cos, sin, other, -(-max(contexts) // 256))
    assert error(found[0], wanted) < (2e-2 if net.fp8 else 3e-3)
    slots = past.batch.slot_mapping
    for pair, copy in zip(past.caches, copies, strict=True):
        for ours, theirs in zip(pair, copy, strict=True):
            new, old = (cache.float()[slots // 16, :, slots % 16] for cache in (ours, theirs))
            assert error(new, old) < (5e-2 if net.fp8 else 3e-3)


@pytest.mark.parametrize(
    ("which", "sizes"), [(ALONE, (1, 2)), (PAIRED, (1, 2, 3, 4)), (PAIRED, (5, 6, 8)), (PAIRED, (9, 12, 16))]
)
def test_a_row_is_the_same_among_others(which, sizes):
    torch.manual_seed(3)
    net = NETS["mistral"]
    kernels, whole = make(net)
    embedded, cos, sin, past = given(net, kernels, (300, 1700, 44, 90, *range(1, 1200, 100))[: sizes[-1]])
    batch, rows = past.batch, []
    for T in sizes:
        part = PagedBatch(
            batch.slot_mapping[:T], batch.block_tables[:T], batch.query_start[: T + 1], batch.context_lens[:T], 1, 1700
        )
        own = PagedCaches(past.caches, part, past.scale, past.windows)
        rows.append(whole.steps[which](embedded[:T].contiguous(), cos[:T], sin[:T], own))
    assert all(torch.equal(some, rows[-1][: len(some)]) for some in rows)


def test_sequences_that_are_none():
    net = NETS["smollm"]
    torch.manual_seed(1)
    kernels, whole = make(net)
    embedded, cos, sin, past = given(net, kernels, (130, 77, 0, 0))
    step = whole.steps[PAIRED]
    alone = step(embedded, cos, sin, past)
    embedded[2:] = torch.randn_like(embedded[2:])
    assert torch.equal(step(embedded, cos, sin, past)[:2], alone[:2])
    assert alone.isfinite().all()


@pytest.mark.parametrize("which", [ALONE, PAIRED])
def test_a_number_that_is_none_is_seen(which):
    net = NETS["llama"]
    torch.manual_seed(2)
    kernels, whole = make(net)
    embedded, cos, sin, past = given(net, kernels, (60, 61))
    past.caches[0][0][past.batch.block_tables[1, 2].item(), 0, 3] = float("nan")
    out = whole.steps[which](embedded, cos, sin, past)
    assert out[0].isfinite().all()
    assert out[1].isnan().any()
