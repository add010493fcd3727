"""Attention of a GPU's kernels as modes have it: 8 bits with scales, bfloat16, and the same bits however it is cut.

In the interpreter where there is no GPU, with Triton alone; on a GPU with what it has.
"""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from paged_cases import CASES, Case, at_once, in_chunks, one_by_one, run

from halfbyte.kernels.int8_cache import scales_of
from halfbyte.kernels.interface import PagedBatch
from halfbyte.kernels.reference import ReferenceKernels, from_cache

pytest.importorskip("triton", reason="triton is for Linux only")

from halfbyte.kernels.gpu.gpu_kernels import GpuKernels

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LONG = Case(4, 2, 32, (271, 3, 40))  # over the length of a piece
WINDOW = Case(4, 1, 16, (271, 9), 258)


class Placed:
    """GPU kernels for tensors that are on the CPU."""

    def __init__(self, kind="auto", **options) -> None:
        self.kernels, self.kind = GpuKernels(DEVICE, **options), kind

    def kv_cache(self, *shape):
        cache = self.kernels.kv_cache(*shape, self.kind)
        if self.kind == "int8":
            scales_of(cache).fill_(float("nan"))
            cache.fill_(77)
            cache.fill_ = lambda value: cache
        return cache

    def attention(self, q, k, v, keys, values, batch, scale, window):
        there = {f.name: getattr(batch, f.name) for f in fields(batch)}
        there = {name: x.to(DEVICE) if isinstance(x, torch.Tensor) else x for name, x in there.items()}
        given = (x.to(DEVICE) for x in (q, k, v))
        return self.kernels.attention(*given, keys, values, PagedBatch(**there), scale, window).float().cpu()


def nearly(ours, theirs, error):
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() < error * b.norm()


SOME = CASES if DEVICE.type == "cuda" else {name: CASES[name] for name in ("grouped", "one key-value head", "window")}


@pytest.mark.parametrize("case", [*SOME.values(), WINDOW], ids=[*SOME, "long window"])
@pytest.mark.parametrize(
    ("kind", "options", "error"),
    [
        ("auto", {"fixed": True}, 1e-3),
        ("int8", {}, 2e-2),
        ("int8", {"fixed": True}, 2e-2),
        ("auto", {"dtype": torch.bfloat16}, 1e-2),
    ],
    ids=["fixed", "int8", "fixed int8", "bfloat16"],
)
def test_it_is_the_references(case, kind, options, error):
    passes = in_chunks(case, 100)
    found = run(Placed(kind, **options), case, passes)
    nearly(found, run(ReferenceKernels(), case, passes), error)


@pytest.mark.parametrize("kind", ["auto", "int8"])
@pytest.mark.parametrize(
    "name", ["grouped", "window", "long", "long window"] if DEVICE.type == "cuda" else ["short", "long"]
)
def test_fixed_however_it_is_cut(name, kind):
    case = {"long": LONG, "long window": WINDOW, "short": Case(6, 2, 8, (19, 1, 5), 7)}.get(name) or CASES[name]
    kernels = Placed(kind, fixed=True)
    expected = run(kernels, case, at_once(case))
    ways = [in_chunks(case, 5), one_by_one(case)]
    if max(case.lengths) > 100:  # in the interpreter a pass takes its time
        last = case.lengths[0] - 1
        ways = [in_chunks(case, 90), [[(0, 0, 255)], [(0, 255, 256)], [(0, 256, last)], [(0, last, last + 1)]]]
    for passes in ways:
        for ours, theirs in zip(run(kernels, case, passes), expected, strict=True):
            computed = ours.isfinite().all(-1)
            assert computed.any() or len(passes[-1]) == 1
            assert torch.equal(ours[computed], theirs[computed])


@pytest.mark.parametrize(("tokens", "fixed"), [(3, False), (20, True), (600, False)])
@pytest.mark.parametrize("norms", [False, True])
def test_what_lies_in_the_cache(tokens, fixed, norms):
    """Behind rotation and norm: as the reference has it, to a step."""
    if tokens > 100 and DEVICE.type == "cpu":
        pytest.skip("takes the interpreter ten seconds")
    from halfbyte.kernels.reference import rms_norm, store_paged
    from halfbyte.kernels.triton.rope_store import rope_store
    from halfbyte.models.rope import rotate

    torch.manual_seed(tokens)
    heads, kv_heads, d, block = 4, 2, 24, 16
    blocks = -(-tokens // block) + 1
    caches = [Placed("int8").kv_cache(blocks, kv_heads, block, d) for _ in range(4)]
    slots = torch.randperm(blocks * block)[:tokens]
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * d).half()
    angles = torch.rand(tokens, 1, d // 2) * 6
    cos, sin = torch.cat((angles.cos(),) * 2, -1), torch.cat((-angles.sin(), angles.sin()), -1)
    weights = (torch.rand(d) + 0.5, torch.rand(d) + 0.5) if norms else None
    _, k, v = qkv.float().view(tokens, -1, d).split_with_sizes((heads, kv_heads, kv_heads), 1)
    k = rms_norm(k, weights[1], 1e-6) if weights else k
    none = torch.zeros(1, dtype=torch.int32)
    there = PagedBatch(slots.to(DEVICE), none, none, none, 1, 1)
    store_paged(rotate(k, cos, sin).to(DEVICE), v.to(DEVICE), *caches[:2], there)
    q = torch.empty(tokens, heads, d, dtype=torch.float16, device=DEVICE)
    placed = weights and tuple(w.to(DEVICE) for w in weights)
    rope_store(*(x.to(DEVICE) for x in (qkv, cos, sin)), q, *caches[2:], slots.to(DEVICE), placed, 1e-6, fixed=fixed)
    all_blocks = torch.arange(blocks, device=DEVICE)
    for ours, theirs in zip(caches[2:], caches[:2], strict=True):
        scale = scales_of(theirs)
        assert torch.equal(scale.isfinite(), scales_of(ours).isfinite())  # nothing else was written
        wanted, found = (from_cache(cache, all_blocks).nan_to_num() for cache in (theirs, ours))
        assert ((wanted - found).abs() <= 1.01 * scale.nan_to_num()[..., None]).all()
        assert (wanted - found).norm() < 2e-3 * wanted.norm()


def test_a_key_that_is_not_finite_is_seen():
    case = Case(2, 1, 16, (20, 20))
    kernels = Placed("int8")
    original = kernels.attention

    def damaged(q, k, v, *rest):
        k = k.clone()
        k[25, 0, 3] = float("inf")
        return original(q, k, v, *rest)

    kernels.attention = damaged
    whole, broken = run(kernels, case, at_once(case))
    assert whole.isfinite().all()
    assert broken[:5].isfinite().all()
    assert not broken[5:].isfinite().any()
