"""Decoding and prefill of the Llama-2-7B shape, random AWQ weights of g128 (or float16), on one GPU.

    python benchmarks/gpu_decode.py [--weights awq|fp16] [--batches 1 4 16 64 256] [--profile] [--no-overlap]
        [--kv-cache-dtype fp8|int8] [--deterministic]

Prompts of 128 tokens, as many tokens decoded as --tokens says, through the engine: scheduling, sampling and text
included. `gpu_ms` is the recorded pass alone, at a context of 256. `gap_ms` is what lies on the GPU's clock between
the moment when a pass's tokens are copied to the host and the next recorded pass (the median): waiting for the host,
and the copies of what the pass is given. --no-overlap: each pass waits for the last one's tokens. A JSON line each;
`of_ceiling` is the share of the memory's measured reading speed at which the weights were read. The peer is measured
by gpu_vllm.py in the same machine's life, in the same way: (batch x tokens) over what they take longer than one token.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from halfbyte.checkpoint.config import ModelConfig
from halfbyte.checkpoint.int4 import Int4Weight
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.engine import flight
from halfbyte.engine.core import Engine
from halfbyte.engine.options import EngineOptions
from halfbyte.engine.sampling_params import SamplingParams
from halfbyte.kernels.gpu.gpu_kernels import GpuKernels
from halfbyte.kernels.interface import AfterAttention, LinearWeight
from halfbyte.models.network import Block, Network

SHAPE = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 4096, "tie_word_embeddings": False,
    "hidden_act": "silu",
}  # fmt: skip
D, F, V, GROUP, DEVICE = 4096, 11008, 32000, 128, "cuda"


def weight(N: int, K: int, kind: str) -> LinearWeight:
    if kind == "fp16":
        return LinearWeight(torch.randn(N, K, device=DEVICE).mul_(K**-0.5).half())
    q = torch.randint(0, 16, (N, K), dtype=torch.uint8, device=DEVICE)
    s = (torch.rand(N, K // GROUP, device=DEVICE) * 0.2 + 0.9).div_(4.6 * K**0.5).half()
    return LinearWeight(Int4Weight(q, s, torch.full_like(s, 8, dtype=torch.uint8)))


def blocks(kind: str) -> Iterator[Block]:
    for _ in range(SHAPE["num_hidden_layers"]):
        after = AfterAttention(weight(D, D, kind), torch.ones(D), weight(2 * F, D, kind), weight(D, F, kind))
        yield Block(torch.ones(D), weight(3 * D, D, kind), None, None, after)


def words() -> Backend:
    """A tokenizer of single bytes and of as many names as fill the vocabulary."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate(alphabet)} | {f"w{i}": i for i in range(len(alphabet), V)}
    backend = Backend(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return backend


def tokenizer() -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        words().save(str(Path(folder, "tokenizer.json")))
        Path(folder, "config.json").write_text(json.dumps(SHAPE))
        save_file({"nothing": torch.zeros(1)}, Path(folder, "model.safetensors"))
        return Tokenizer.from_source(open_source(folder))


def seconds(engine: Engine, batch: int, prompt: int, tokens: int) -> float:
    """Until that many requests of so many random tokens have so many more each."""
    for _ in range(batch):
        ids = [random.randrange(300, 31000) for _ in range(prompt)]
        engine.add(ids, SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True))
    torch.cuda.synchronize()
    start = time.perf_counter()
    while engine.has_work:
        for _, event in engine.step():
            if isinstance(event, Exception):
                raise event
    return time.perf_counter() - start


def decode_rate(engine: Engine, batch: int, prompt: int, tokens: int) -> tuple[float, float]:
    """Seconds that the first token takes, and tokens a second behind it, from two runs."""
    seconds(engine, batch, prompt, 8)
    first = seconds(engine, batch, prompt, 1)
    return first, batch * tokens / (seconds(engine, batch, prompt, tokens + 1) - first)


class Gaps:
    """Marks on the GPU's queue behind the tokens of each pass, and before each recorded pass."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.marks: list[tuple[str, torch.cuda.Event]] = []
        gaps, inner = self, flight.Download

        class Download(inner):  # type: ignore[misc,valid-type]
            def __init__(self, tensor: torch.Tensor) -> None:
                super().__init__(tensor)
                gaps.mark("end")

        flight.Download = Download  # type: ignore[misc]

    def mark(self, what: str) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self.marks.append((what, event))

    def start(self) -> None:
        """Forget what was, and watch every pass that is recorded by now."""
        self.marks.clear()
        for recorded in self.network.whole_pass.recorded.values():  # type: ignore[union-attr]
            if isinstance(recorded.graph, torch.cuda.CUDAGraph):
                recorded.graph = SimpleNamespace(replay=partial(self._replay, recorded.graph))

    def median_ms(self) -> float:
        torch.cuda.synchronize()
        pairs = pairwise(self.marks)
        found = sorted(a.elapsed_time(b) for (what, a), (then, b) in pairs if (what, then) == ("end", "begin"))
        return found[len(found) // 2]

    def _replay(self, graph: torch.cuda.CUDAGraph) -> None:
        self.mark("begin")
        graph.replay()


def replay_ms(graph: torch.cuda.CUDAGraph, times: int = 20) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    found = []
    for _ in range(times):
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end))
    return sorted(found)[times // 2]


def ceiling() -> float:
    """Bytes a second that a plain sum reads."""
    big = torch.empty(2**30, device=DEVICE).normal_()
    graph = torch.cuda.CUDAGraph()
    big.sum()
    with torch.cuda.graph(graph):
        big.sum()
    return big.nbytes / replay_ms(graph) * 1e3


def profiled(graph: torch.cuda.CUDAGraph) -> dict[str, float]:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        graph.replay()
        torch.cuda.synchronize()
    rows = sorted(profiler.key_averages(), key=lambda row: -row.self_device_time_total)
    return {f"{row.key[:40]} x{row.count}": round(row.self_device_time_total) for row in rows[:9]}


def build(
    kind: str,
    kv_cache_dtype: str = "auto",
    *,
    kv_cache: str | None = "60GiB",
    overlap: bool = True,
    deterministic: bool = False,
) -> tuple[Engine, int]:
    """An engine with random weights, and the bytes of weights that it reads for a token."""
    before = torch.cuda.memory_allocated()
    embedding = torch.randn(V, D, device=DEVICE).half()
    head = torch.randn(V, D, device=DEVICE).mul_(D**-0.5).half()
    kernels = GpuKernels(torch.device(DEVICE), fixed=deterministic)
    config = ModelConfig.from_dict(SHAPE, "the Llama-2-7B shape")
    network = Network(config, embedding, blocks(kind), torch.ones(D), head, kernels)
    read = torch.cuda.memory_allocated() - before - embedding.nbytes
    options = EngineOptions(
        kv_cache=kv_cache,
        kv_cache_dtype=kv_cache_dtype,  # type: ignore[arg-type]
        enable_prefix_caching=False,
        overlap=overlap,
        deterministic=deterministic,
    )
    return Engine(network, tokenizer(), 4096, options), read


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", choices=("awq", "fp16"), default="awq")
    parser.add_argument("--kv-cache-dtype", choices=("auto", "fp8", "int8"), default="auto")
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--no-overlap", action="store_true")
    parser.add_argument("--profile", action="store_true", help="microseconds by kernel, of one recorded pass")
    given = parser.parse_args()

    def say(**found: object) -> None:
        start: dict[str, object] = {"who": "halfbyte", "weights": given.weights, "kv": given.kv_cache_dtype}
        start |= {"deterministic": True} if given.deterministic else {}
        print(json.dumps(start | found), flush=True)

    speed = ceiling()
    say(device=torch.cuda.get_device_name(), read_TB_s=round(speed / 1e12, 2))
    engine, read = build(
        given.weights,
        given.kv_cache_dtype,
        overlap=not given.no_overlap,
        deterministic=given.deterministic,
    )
    network = engine.network
    for batch in given.batches:
        say(batch=batch, decode_tok_s=round(decode_rate(engine, batch, 128, given.tokens)[1], 1))
    gaps = Gaps(network)
    for batch in given.batches:
        gaps.start()
        seconds(engine, batch, 128, 64)
        say(batch=batch, gap_ms=round(gaps.median_ms(), 3))
    first, rate = decode_rate(engine, 1, 2048, given.tokens)
    say(prefill_2048_ms=round(first * 1e3, 1), decode_tok_s_at_2048=round(rate, 1))
    assert network.whole_pass is not None
    for (size, pieces), recorded in sorted(network.whole_pass.recorded.items()):
        recorded.batch.context_lens.fill_(256 * pieces)
        ms = replay_ms(recorded.graph)
        found = {"size": size, "context": 256 * pieces, "gpu_ms": round(ms, 3)}
        if size == 1:
            found["of_ceiling"] = round(read / ms * 1e3 / speed, 3)
        if given.profile:
            found["us"] = profiled(recorded.graph)
        say(**found)


if __name__ == "__main__":
    main()
