"""What a step of decoding costs beside the network: a network that computes nothing stands in for the real one.

    python benchmarks/host_cost.py [--batches 1 16 64 256] [--steps 200]

Prompts of 128 tokens, greedy and sampled (temperature 0.8, top_k 40, top_p 0.9). A JSON line each, microseconds of a
step in the median: `schedule`, `inputs` (what the network is given), `sample` (from logits of a vocabulary so small
that arithmetic hardly shows), `rest` (stops, text, events, and all else). One thread.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from statistics import median
from typing import Any

import torch
from gpu_decode import SHAPE, tokenizer

from halfbyte.checkpoint.config import ModelConfig
from halfbyte.engine import flight
from halfbyte.engine.core import Engine
from halfbyte.engine.options import EngineOptions
from halfbyte.engine.sampling_params import SamplingParams
from halfbyte.kernels.reference import ReferenceKernels

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 0.8, "top_k": 40, "top_p": 0.9},
}


class NoNetwork:
    """Gives the same hidden states and logits whatever it reads."""

    def __init__(self) -> None:
        self.config = ModelConfig.from_dict(SHAPE | {"num_hidden_layers": 1}, "the Llama-2-7B shape")
        self.kernels, self.device = ReferenceKernels(), torch.device("cpu")
        self.hidden = torch.zeros(8192, 8)
        self.canned = torch.randn(256, 512)

    def forward(self, tokens: torch.Tensor, *_: object) -> torch.Tensor:
        return self.hidden[: len(tokens)]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.canned[: len(hidden)].clone()


class Watch:
    """Adds up the time that calls of some functions take."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    def over(self, owner: Any, function: str, name: str) -> None:
        inner = getattr(owner, function)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - start

        setattr(owner, function, timed)


def measure(batch: int, steps: int, way: str) -> dict[str, float]:
    options = EngineOptions(kv_cache="4GiB", max_num_seqs=256, max_num_batched_tokens=4096)
    engine = Engine(NoNetwork(), tokenizer(), 4096, options)  # type: ignore[arg-type]
    watch = Watch()
    watch.over(engine.scheduler, "schedule", "schedule")
    watch.over(engine.runner, "forward", "inputs")
    plain = flight.draw
    watch.over(flight, "draw", "sample")
    for i in range(batch):
        ids = [random.randrange(300, 31000) for _ in range(128)]
        engine.add(ids, SamplingParams(max_tokens=steps + 80, ignore_eos=True, seed=i, **WAYS[way]))
    while engine.scheduler.waiting or any(s.answer.count == 0 for s in engine.scheduler.running):
        engine.step()
    found: dict[str, list[float]] = {}
    for _ in range(steps):
        watch.spent = {}
        start = time.perf_counter()
        assert len(engine.step()) == batch
        whole = time.perf_counter() - start
        for name, seconds in {**watch.spent, "rest": whole - sum(watch.spent.values()), "step": whole}.items():
            found.setdefault(name, []).append(seconds * 1e6)
    flight.draw = plain
    return {name: round(median(values), 1) for name, values in found.items()}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--steps", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for way in WAYS:
        for batch in given.batches:
            print(json.dumps({"way": way, "batch": batch, "us": measure(batch, given.steps, way)}), flush=True)


if __name__ == "__main__":
    main()
