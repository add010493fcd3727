"""The same model in one process and dealt out to several: are the answers the same, and how fast are they?

One JSON object a line for each size and batch. `greedy_same` and `parted_by`: of so many greedy answers, those that
are token for token those of the first size, and the most by which, where an answer parts, the first size's
log-probabilities of the two tokens differ (a near tie, or a fault). It needs as many GPUs as the largest size:

    python benchmarks/tensor_parallel.py out/llama-2-7b-awq --sizes 1 2
    HALFBYTE_SHARED_GRAPHS=1 python benchmarks/tensor_parallel.py out/llama-2-7b-awq --sizes 1 2
    python benchmarks/tensor_parallel.py --sizes 1 2      # random weights of that shape
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import tempfile
import time
from pathlib import Path

import torch

from halfbyte import LLM, SamplingParams


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="default: random weights of Llama-2-7B's shape, written first")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--prompt", type=int, default=128, help="tokens")
    parser.add_argument("--tokens", type=int, default=128, help="of an answer")
    parser.add_argument("--answers", type=int, default=16, help="greedy ones that are compared")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compute", choices=["auto", "float32"], default="auto")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = given.model
        if model is None:
            from gpu_start import write  # beside this file

            write(Path(folder))
            model = folder
        compare(model, given)


def compare(model: str, given: argparse.Namespace) -> None:
    """Measure all sizes, one after the other."""
    expected = None
    for size in given.sizes:
        started = time.perf_counter()
        llm = LLM(
            model,
            tensor_parallel_size=size,
            max_model_len=given.prompt + given.tokens,
            device=given.device,
            compute=given.compute,
        )
        loaded = time.perf_counter() - started
        answers = greedy(llm, given)
        told = {"tensor_parallel_size": size, "load_s": round(loaded, 2), "device": str(llm.network.device)}
        if llm.network.device.type == "cuda":
            told["gpu_memory_gb"] = round(torch.cuda.memory_allocated() / 1e9, 2)
        if expected is None:
            expected = answers
        else:
            told |= compared(answers, expected)
        print(json.dumps(told), flush=True)
        for batch in given.batches:
            print(json.dumps({"tensor_parallel_size": size, "batch": batch, **decode(llm, batch, given)}), flush=True)
        if llm.engine.ranks is not None:
            llm.engine.ranks.end()
        del llm
        gc.collect()
        torch.cuda.empty_cache()


def prompts(count: int, length: int, seed: int) -> list[dict[str, list[int]]]:
    """Random token ids."""
    numbers = random.Random(seed)
    return [{"prompt_token_ids": [numbers.randrange(3, 1000) for _ in range(length)]} for _ in range(count)]


def greedy(llm: LLM, given: argparse.Namespace) -> list:
    """Answers with the log-probabilities of the likeliest tokens."""
    params = SamplingParams(temperature=0, max_tokens=32, ignore_eos=True, logprobs=5)
    return [output.outputs[0] for output in llm.generate(prompts(given.answers, 24, 1), params, use_tqdm=False)]


def compared(found: list, expected: list) -> dict[str, object]:
    """How answers differ from those of the first size."""
    same, parted = 0, 0.0
    for ours, theirs in zip(found, expected, strict=True):
        if ours.token_ids == theirs.token_ids:
            same += 1
            continue
        place = next(i for i, (a, b) in enumerate(zip(ours.token_ids, theirs.token_ids, strict=True)) if a != b)
        known = theirs.logprobs[place]
        a, b = ours.token_ids[place], theirs.token_ids[place]
        parted = max(parted, known[b].logprob - known[a].logprob if a in known else float("inf"))
    return {"greedy_same": f"{same} of {len(found)}", "parted_by": round(parted, 4)}


def decode(llm: LLM, batch: int, given: argparse.Namespace) -> dict[str, float]:
    """Tokens a second of decoding, and how long the prompts took: of two runs, the second."""
    for seed in (2, 3):
        times = []
        for tokens in (1, given.tokens):
            params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
            asked = prompts(batch, given.prompt, 10 * seed + (tokens > 1))
            started = time.perf_counter()
            llm.generate(asked, params, use_tqdm=False)
            times.append(time.perf_counter() - started)
    seconds = times[1] - times[0]
    return {"prefill_ms": round(1e3 * times[0], 2), "decode_tok_s": round(batch * (given.tokens - 1) / seconds, 1)}


if __name__ == "__main__":
    main()
