"""The kernels of whole steps, run on a CPU thread by thread in shuffled order, against float64."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from halfbyte.checkpoint.int4 import Int4Weight
from halfbyte.kernels.gpu import paired_step, step_network, whole_step
from halfbyte.kernels.gpu.linear import interleaved
from halfbyte.kernels.gpu.tiles import pack_tiles
from halfbyte.kernels.interface import PagedBatch, PagedCaches

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

HERE = Path(__file__).parent
ROOM = 160 * 1024
BLOCK = 16


@dataclass
class Net:
    hidden: int = 256
    ffn: int = 576
    heads: int = 2
    kv_heads: int = 2
    d: int = 64
    group: int = 64
    bias: bool = False
    norms: bool = False
    fp8: bool = False
    window: int | None = None
    layers: int = 2
    multiprocessors: int = 6


class Emulated:
    """What takes a compiled kernel's place."""

    def __init__(self, folder: Path, name: str, defines: dict[str, int]) -> None:
        parts = [HERE / "emulator.h", *(files("halfbyte.kernels.cuda") / part for part in ("step.cuh", f"{name}.cu"))]
        source = "\n".join([f"#define KERNEL {name}", *(part.read_text() for part in parts), END])
        options = [f"-D{key}={value}" for key, value in defines.items()]
        key = hashlib.sha256("\0".join([source, *options]).encode()).hexdigest()[:16]
        made, text = folder / f"{key}.so", folder / f"{key}.cpp"
        text.write_text(source)
        subprocess.run(
            ["g++", "-O1", "-std=c++17", "-fPIC", "-shared", "-w", *options, "-o", str(made), str(text)], check=True
        )
        self.run, self.seed = ctypes.CDLL(str(made)).emulate, 0

    def __call__(self, grid, threads, shared, arguments, *, early, together):
        kept = [argument_of(a) for a in arguments]
        pointers = (ctypes.c_void_p * len(kept))(*(ctypes.addressof(a) for a in kept))
        assert self.run(grid, threads, shared, self.seed, pointers) == 0, "see `emulate` in emulator.h"


END = """
static void run_fiber() {
    Fiber* own = now;
    call(KERNEL, launch_arguments);
    own->done = true;
}
"""


def argument_of(a):
    if isinstance(a, torch.Tensor):
        return ctypes.c_void_p(a.data_ptr())
    return ctypes.c_float(a) if isinstance(a, float) else ctypes.c_int(a)


@pytest.fixture
def emulated(monkeypatch, tmp_path):
    """A GPU of a few multiprocessors; the kernels that were made."""
    made = {}

    def kernel(name, arch, defines):
        if (name, defines) not in made:
            made[name, defines] = Emulated(tmp_path, name, dict(defines))
        return made[name, defines]

    for module in (whole_step, paired_step):
        monkeypatch.setattr(module, "step_kernel", kernel)
        monkeypatch.setattr(module, "arch_of", lambda device: "sm_90")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(step_network.StepNetwork, "multiprocessors", lambda self: self.shape.multiprocessors)
    monkeypatch.setattr(step_network.StepNetwork, "room", lambda self: ROOM)
    return made


def linear(N, K, net, *, gated=False):
    q = torch.randint(0, 16, (N, K), dtype=torch.uint8)
    s = ((torch.rand(N, K // net.group) * 0.2 + 0.9) / (4.6 * K**0.5)).half()
    z = torch.randint(0, 16, (N, K // net.group), dtype=torch.uint8)
    bias = torch.randn(N) * 0.3 if net.bias and not gated else None
    order = interleaved(N) if gated else torch.arange(N)
    tiles = pack_tiles(Int4Weight(q[order], s[order], z[order]))
    groups = [x.double().repeat_interleave(net.group, 1) for x in (z, s)]
    exact = (q.double() - groups[0]) * groups[1]
    return SimpleNamespace(N=N, K=K, group=tiles.group, data=tiles.data, bias=bias, exact=exact)


def network(net):
    vector = lambda size: 1 + torch.randn(size) / 4  # noqa: E731
    spans = []
    for layer in range(net.layers + 1):
        spans.append(
            SimpleNamespace(
                qkv=linear((net.heads + 2 * net.kv_heads) * net.d, net.hidden, net) if layer < net.layers else None,
                o=linear(net.hidden, net.heads * net.d, net), gate_up=linear(2 * net.ffn, net.hidden, net, gated=True),
                down=linear(net.hidden, net.ffn, net), norm=vector(net.hidden), after_norm=vector(net.hidden),
                streams=True, eps=1e-5,
            )
        )  # fmt: skip
    sizes = {"heads": net.heads, "kv_heads": net.kv_heads, "head_dim": net.d, "eps": 1e-5}
    shape = SimpleNamespace(**sizes, multiprocessors=net.multiprocessors)
    norms = [(vector(net.d), vector(net.d)) if net.norms else None] * net.layers
    return step_network.StepNetwork(shape, spans, norms, torch.device("cpu"))


def given(net, contexts):
    """Embedded, cos, sin, and a past whose unused places are no numbers."""
    T, blocks = len(contexts), [-(-max(c, 1) // BLOCK) for c in contexts]
    table = torch.full((T, max(blocks) + 3), 10**6, dtype=torch.int32)
    order, slots = torch.randperm(sum(blocks)).int(), torch.full((T,), -1)
    for s, (count, context) in enumerate(zip(blocks, contexts, strict=True)):
        table[s, :count] = order[sum(blocks[:s]) :][:count]
        if context:
            slots[s] = table[s, (context - 1) // BLOCK] * BLOCK + (context - 1) % BLOCK
    kind = torch.float8_e4m3fn if net.fp8 else torch.float16
    caches = []
    for _ in range(net.layers):
        pair = torch.full((2, sum(blocks), net.kv_heads, BLOCK, net.d), float("nan"))
        for s, context in enumerate(contexts):
            for i in range(context - 1):
                pair[:, table[s, i // BLOCK], :, i % BLOCK] = torch.randn(2, net.kv_heads, net.d)
        caches.append(tuple(cache.to(kind) for cache in pair))
    batch = PagedBatch(
        slots, table, torch.arange(T + 1).int(), torch.tensor(contexts, dtype=torch.int32), 1, max(contexts)
    )
    angle = torch.randn(T, 1, net.d // 2)
    cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat((-angle.sin(), angle.sin()), -1)
    past = PagedCaches(caches, batch, net.d**-0.5, [net.window] * net.layers)
    return torch.randn(T, net.hidden), cos, sin, past


def normed(x, weight):
    return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight


def exact_step(net, at, embedded, cos, sin, past):
    """The same in float64, and the keys and values that it keeps."""
    batch, stream, kept = past.batch, embedded.double(), []
    for layer in range(net.layers):
        span, after = at.spans[layer], at.spans[layer + 1]
        y = normed(stream, span.norm) @ span.qkv.exact.T + (0 if span.qkv.bias is None else span.qkv.bias)
        q, k, v = y.view(len(y), -1, net.d).split((net.heads, net.kv_heads, net.kv_heads), 1)
        if net.norms:
            q, k = normed(q, at.norms[layer][0]), normed(k, at.norms[layer][1])
        q, k = (x * cos + x.roll(net.d // 2, -1) * sin for x in (q, k))
        kept.append((k, v))
        seen = torch.zeros(len(y), net.heads, net.d, dtype=torch.float64)
        for s, context in enumerate(batch.context_lens.tolist()):
            if not context:
                continue
            first = max(0, context - net.window) if net.window else 0
            places = [(batch.block_tables[s, i // BLOCK], i % BLOCK) for i in range(first, context - 1)]
            pairs = zip(past.caches[layer], (k, v), strict=True)
            old = [torch.stack([cache[b, :, i].double() for b, i in places] + [new[s]]) for cache, new in pairs]
            keys, values = (x.repeat_interleave(net.heads // net.kv_heads, 1) for x in old)
            weights = (torch.einsum("hd,thd->ht", q[s], keys) * past.scale).softmax(-1)
            seen[s] = torch.einsum("ht,thd->hd", weights, values)
        stream = stream + seen.flatten(1) @ after.o.exact.T + (0 if after.o.bias is None else after.o.bias)
        gate, up = (normed(stream, after.after_norm) @ after.gate_up.exact.T).chunk(2, -1)
        stream = stream + (torch.nn.functional.silu(gate) * up) @ after.down.exact.T
        stream = stream + (0 if after.down.bias is None else after.down.bias)
    return normed(stream, at.spans[-1].norm), kept


def error(found, wanted):
    return ((found.double() - wanted).norm() / wanted.norm()).item()


def check(step, net, at, inputs):
    past = inputs[-1]
    rows = [s for s, context in enumerate(past.batch.context_lens.tolist()) if context]
    wanted, kept = exact_step(net, at, *inputs)
    found = step(*inputs)
    assert found.isfinite().all()
    assert error(found[rows], wanted[rows]) < (3e-2 if net.fp8 else 2e-3)
    slots = past.batch.slot_mapping[rows]
    for pair, new in zip(past.caches, kept, strict=True):
        for cache, x in zip(pair, new, strict=True):
            assert error(cache.double()[slots // BLOCK, :, slots % BLOCK], x[rows]) < (5e-2 if net.fp8 else 2e-3)
    return found


CASES = {
    "two": (whole_step.WholeStep, Net(heads=4, norms=True), (100, 3)),
    "four": (paired_step.PairedStep, Net(group=128, ffn=640, heads=4), (70, 1, 140, 17)),
    "sixteen": (paired_step.PairedStep, Net(heads=4, group=32, bias=True, layers=1), (*range(1, 150, 10), 0)),
}
MORE = {
    "alone": (whole_step.WholeStep, Net(group=128, ffn=640), (70,)),
    "one, eight bits": (whole_step.WholeStep, Net(fp8=True, d=128, bias=True), (300,)),
    "three, eight bits": (paired_step.PairedStep, Net(fp8=True, d=128, norms=True), (40, 90, 128)),
    "eight, window": (paired_step.PairedStep, Net(heads=6, window=50, group=32), (1, 2, 50, 51, 52, 100, 130, 0)),
    "rounds": (
        paired_step.PairedStep, Net(hidden=512, ffn=2176, group=128, layers=1, multiprocessors=10), (5, 6, 7, 8, 9)
    ),
    "nine": (paired_step.PairedStep, Net(hidden=576, ffn=1536, heads=9, kv_heads=3, group=32), (9, 400, *range(7))),
}  # fmt: skip


@pytest.mark.parametrize("case", [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_a_step_is_that_of_float64(case, emulated):
    kind, net, contexts = (CASES | MORE)[case]
    torch.manual_seed(0)
    at = network(net)
    step, inputs = kind(at), given(net, contexts)
    assert step.takes(len(contexts), inputs[-1])
    first = check(step, net, at, inputs)
    (kernel,) = emulated.values()
    kernel.seed = 1  # another order, the same bits
    assert torch.equal(step(*inputs), first)
    assert at.counter[0] == at.counter[1]
