"""`deterministic`: a token's results are the same, bit for bit, whatever else is in the pass, on a GPU too."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from halfbyte.checkpoint.int4 import Int4Weight
from halfbyte.engine.core import Engine
from halfbyte.engine.options import EngineOptions
from halfbyte.engine.sampling_params import SamplingParams
from halfbyte.errors import ConfigError
from halfbyte.kernels.interface import AfterAttention, LinearWeight, Span
from halfbyte.models.network import Block, Network

pytest.importorskip("triton", reason="triton is for Linux only")

from tiny_network import ByteTokenizer, tiny_config

from halfbyte.kernels.gpu.gpu_kernels import GpuKernels

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"
SIZES = range(1, 301) if ON_GPU else (1, 17)
MOST = SIZES[-1]


def weight(N, K, group):
    if group is None:
        return LinearWeight(torch.randn(N, K) * K**-0.5)
    q = torch.randint(0, 16, (N, K), dtype=torch.uint8)
    s = ((torch.rand(N, K // group) * 0.2 + 0.9) / (4.6 * K**0.5)).half()
    return LinearWeight(Int4Weight(q, s, torch.randint(4, 12, (N, K // group), dtype=torch.uint8)))


def block(hidden, ffn, group, qkv):
    after = AfterAttention(
        weight(hidden, hidden, group),
        torch.rand(hidden) + 0.5,
        weight(2 * ffn, hidden, group),
        weight(hidden, ffn, group),
    )
    return Block(torch.rand(hidden) + 0.5, weight(qkv, hidden, group), None, None, after)


SHAPES = {"g64": (64, 64, 64), "floats": (32, 72, None)}
if ON_GPU:
    SHAPES |= {"llama": (1024, 2816, 128), "smollm": (576, 1536, 32), "llama's floats": (1024, 2816, None)}


@pytest.mark.parametrize("name", SHAPES)
def test_rows_of_a_span(name):
    torch.manual_seed(0)
    hidden, ffn, group = SHAPES[name]
    b = block(hidden, ffn, group, 2 * hidden)
    kernel = GpuKernels(DEVICE, fixed=True).span(Span(1e-5, b.after, b.input_norm, b.qkv))
    attended, residual = torch.randn(MOST, hidden).half().to(DEVICE), torch.randn(MOST, hidden).to(DEVICE)
    whole = [y.clone() for y in kernel(attended, residual)]
    for T in SIZES:
        for rows in (slice(0, T), slice(MOST - T, MOST)):
            for ours, theirs in zip(kernel(attended[rows], residual[rows]), whole, strict=True):
                assert torch.equal(ours, theirs[rows]), (T, rows)


@pytest.mark.parametrize(("vocabulary", "hidden"), [(500, 96), (257, 128)])
def test_rows_of_a_head(vocabulary, hidden):
    torch.manual_seed(0)
    head = GpuKernels(DEVICE, fixed=True).head(torch.randn(vocabulary, hidden))
    x = torch.randn(MOST, hidden).to(DEVICE)
    whole = head(x)
    assert whole.dtype == torch.float32
    for T in SIZES:
        assert torch.equal(head(x[MOST - T :]), whole[MOST - T :]), T


def network(*, fixed=True, kernels=None):
    """On a GPU of 4 bits, with a window in its second layer; in the interpreter as small as can be."""
    hidden, ffn, group, heads, windows = (192, 320, 64, 6, (None, 40)) if ON_GPU else (32, 48, None, 2, (None,))
    width = hidden // heads
    config = tiny_config(
        vocab_size=257, hidden_size=hidden, intermediate_size=ffn, num_layers=len(windows), num_heads=heads,
        num_kv_heads=heads // 2, head_dim=width, sliding_windows=windows,
    )  # fmt: skip
    torch.manual_seed(3)
    blocks = [block(hidden, ffn, group, 2 * heads * width) for _ in windows]
    embedding = torch.randn(257, hidden)
    device = DEVICE if kernels is None else torch.device("cpu")
    kernels = kernels or GpuKernels(DEVICE, fixed=fixed)
    return Network(config, embedding.to(device), blocks, torch.ones(hidden), embedding, kernels)


def requests(count):
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(*((1, 200) if ON_GPU else (11, 15)), (count,), generator=generator).tolist()
    prompts = [torch.randint(0, 256, (n,), generator=generator).tolist() for n in lengths]
    params = [
        SamplingParams(
            temperature=(0.0, 0.0, 0.9)[i % 3], top_p=(1.0, 0.9)[i % 2], top_k=(0, 0, 0, 20)[i % 4], seed=i,
            max_tokens=6 + i % (40 if ON_GPU else 2), ignore_eos=True,
        )
        for i in range(count)
    ]  # fmt: skip
    return list(zip(prompts, params, strict=True))


def answers(engine, asked):
    ids = {engine.add(prompt, params, params.seed): i for i, (prompt, params) in enumerate(asked)}
    found = [[] for _ in asked]
    while engine.has_work:
        for request, event in engine.step():
            if isinstance(event, Exception):
                raise event
            found[ids[request]].append(event.token_id)
    return found


@pytest.mark.parametrize("kind", ["auto", "int8"] if ON_GPU else ["int8"])
def test_requests_in_a_crowd(kind):
    """In passes of a few tokens, with little memory, so that prompts are cut and sequences give their memory back."""
    count, context, tokens = (100, 256, 150) if ON_GPU else (3, 32, 9)
    asked, net = requests(count), network()
    heads, width = net.config.num_kv_heads, net.config.head_dim
    page = net.kernels.kv_cache(1, heads, 16, width, kind).untyped_storage().nbytes()
    options = EngineOptions(deterministic=True, kv_cache_dtype=kind, enable_prefix_caching=True)
    few = replace(
        options, kv_cache=2 * net.config.num_layers * page * (60 if ON_GPU else 3), max_num_batched_tokens=tokens
    )
    crowd = Engine(net, ByteTokenizer(), context, few)
    together = answers(crowd, asked)
    alone = Engine(net, ByteTokenizer(), context, replace(options, kv_cache="8MiB"))
    for given, found in zip(asked, together, strict=True):
        assert answers(alone, [given]) == [found]
    assert crowd.scheduler.preemptions > 0


def test_an_engine_insists_on_such_a_network():
    with pytest.raises(ConfigError, match="load_network"):
        Engine(network(fixed=False), ByteTokenizer(), 32, EngineOptions(deterministic=True, kv_cache="8MiB"))


def test_what_it_does_not_go_with():
    from halfbyte.models.loader import _check_deterministic

    _check_deterministic(adaptable=False, ranks=2)
    with pytest.raises(ConfigError, match="enable_lora"):
        _check_deterministic(adaptable=True, ranks=1)
    with pytest.raises(ConfigError, match="on 3 GPUs"):
        _check_deterministic(adaptable=False, ranks=3)
