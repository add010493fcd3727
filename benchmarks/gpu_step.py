"""A step of decoding the Llama-2-7B shape, every way that there is for a few sequences, on one GPU.

    python benchmarks/gpu_step.py [--batches 1 2 4 8 16] [--contexts 256 2048]

All blocks of the network for one new token of each sequence, without the head and the draw: as one kernel by
whole_step.cu and by paired_step.cu, as far as they take so many, and kernel by kernel; each recorded as a graph.
Milliseconds, and how far the result is from that of kernel by kernel (norm of the difference over the norm). A JSON
line each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator

import torch
from gpu_decode import DEVICE, SHAPE, D, build, replay_ms

from halfbyte.kernels.gpu.gpu_pass import GpuPass
from halfbyte.kernels.gpu.paired_step import PairedStep
from halfbyte.kernels.interface import PagedBatch, PagedCaches
from halfbyte.kernels.triton.paged_attention import pieces_of

HEADS, LAYERS, BLOCK = SHAPE["num_attention_heads"], SHAPE["num_hidden_layers"], 16
WIDTH = D // HEADS  # type: ignore[operator]


def past_of(caches: list[tuple[torch.Tensor, torch.Tensor]], batch: int, context: int) -> PagedCaches:
    """Sequences of one length, each with blocks of its own."""
    blocks = -(-context // BLOCK)
    tables = torch.arange(batch * blocks, device=DEVICE).view(batch, blocks).int()
    slots = tables[:, (context - 1) // BLOCK].long() * BLOCK + (context - 1) % BLOCK
    starts = torch.arange(batch + 1, device=DEVICE).int()
    lengths = torch.full((batch,), context, device=DEVICE).int()
    return PagedCaches(
        caches, PagedBatch(slots, tables, starts, lengths, 1, context), WIDTH**-0.5, [None] * len(caches)
    )


def ways(whole: GpuPass, batch: int, past: PagedCaches) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
    """What a step can be done by, kernel by kernel first."""
    angles = torch.randn(batch, 1, WIDTH // 2, device=DEVICE)
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([-angles.sin(), angles.sin()], -1)
    embedded = torch.randn(batch, D, device=DEVICE)
    yield "kernel by kernel", lambda: whole.run(embedded, cos, sin, past, pieces_of(past.batch))
    for step in whole.steps:
        if step.takes(batch, past):
            name = "paired_step.cu" if isinstance(step, PairedStep) else "whole_step.cu"
            yield name, lambda step=step: step(embedded, cos, sin, past)  # type: ignore[misc]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--contexts", type=int, nargs="+", default=[256, 2048])
    given = parser.parse_args()
    engine, _ = build("awq", kv_cache="8GiB")
    whole = engine.network.whole_pass
    assert isinstance(whole, GpuPass)
    blocks = max(given.batches) * -(-max(given.contexts) // BLOCK)
    shape = (blocks, HEADS, BLOCK, WIDTH)
    caches = [tuple(torch.randn(shape, device=DEVICE).half() for _ in range(2)) for _ in range(LAYERS)]  # type: ignore[call-overload]
    for context in given.contexts:
        for batch in given.batches:
            past, exact = past_of(caches, batch, context), None
            for name, way in ways(whole, batch, past):
                found = way().clone()
                exact = found if exact is None else exact
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    way()
                far = ((found - exact).norm() / exact.norm()).item()
                line = {
                    "way": name,
                    "batch": batch,
                    "context": context,
                    "ms": round(replay_ms(graph, 40), 3),
                    "far": far,
                }
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
