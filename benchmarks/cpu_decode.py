"""Decoding and prefill on a CPU, ours beside llama.cpp in the same run: one JSON object a line.

    python benchmarks/cpu_decode.py REPOSITORY --gguf FILE.gguf [--llama-cpp-python PYTHON] [--rounds 3] [--threads 2]

Each side runs in its own process, in turn, `rounds` times; the figures are medians. Prefill: 300 tokens into an empty
cache. Decode: 128 greedy tokens behind a context of 16, end-of-text ignored. llama-cpp-python compiles for some
minutes, so it may live in an environment of its own, whose interpreter --llama-cpp-python names.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

PROMPT = "The history of science is " * 60
PREFILL, CONTEXT, DECODE = 300, 16, 128

OURS = """
import json, sys, time
import torch
model, threads, prompt, prefill, context, decode = sys.argv[1], *map(eval, sys.argv[2:])
torch.set_num_threads(threads)
from halfbyte import LLM, SamplingParams
start = time.perf_counter()
llm = LLM(model, max_model_len=1024, enable_prefix_caching=False)
load = time.perf_counter() - start
tokens = llm.tokenizer.encode(prompt)[:prefill]
for _ in range(2):
    start = time.perf_counter()
    list(llm.stream({"prompt_token_ids": tokens}, SamplingParams(temperature=0, max_tokens=1)))
    prefill_rate = len(tokens) / (time.perf_counter() - start)
    steps = llm.stream(
        {"prompt_token_ids": tokens[:context]}, SamplingParams(temperature=0, max_tokens=decode + 1, ignore_eos=True)
    )
    next(steps)
    start = time.perf_counter()
    count = sum(1 for _ in steps)
    decode_rate = count / (time.perf_counter() - start)
print(json.dumps({"prefill": prefill_rate, "decode": decode_rate, "load_s": load}))
"""
LLAMA_CPP = """
import json, sys, time
from llama_cpp import Llama
path, threads, prompt, prefill, context, decode = sys.argv[1], *map(eval, sys.argv[2:])
start = time.perf_counter()
model = Llama(path, n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False)
load = time.perf_counter() - start
tokens = model.tokenize(prompt.encode())[:prefill]
for _ in range(2):
    model.reset()
    start = time.perf_counter()
    model.eval(tokens)
    prefill_rate = len(tokens) / (time.perf_counter() - start)
    model.reset()
    model.eval(tokens[:context])
    start = time.perf_counter()
    for _ in range(decode):
        model.eval([model.sample(temp=0.0)])
    decode_rate = decode / (time.perf_counter() - start)
print(json.dumps({"prefill": prefill_rate, "decode": decode_rate, "load_s": load}))
"""


def measure(python: str, program: str, model: str, threads: int) -> dict[str, float]:
    arguments = [model, *map(repr, (threads, PROMPT, PREFILL, CONTEXT, DECODE))]
    result = subprocess.run([python, "-c", program, *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{python}: {result.stderr.strip().splitlines()[-1]}")
    figures: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository")
    parser.add_argument("--gguf", help="the same model as GGUF; without it the peer is not measured")
    parser.add_argument("--llama-cpp-python", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    sides = {"halfbyte": (sys.executable, OURS, args.repository)}
    if args.gguf:
        sides["llama.cpp"] = (args.llama_cpp_python, LLAMA_CPP, args.gguf)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, side in sides.items():
            runs[name].append(measure(*side, args.threads))
    median = {
        name: {figure: statistics.median(run[figure] for run in figures) for figure in figures[0]}
        for name, figures in runs.items()
    }
    for name, m in median.items():
        figures = {"prefill_tok_s": round(m["prefill"], 1), "decode_tok_s": round(m["decode"], 1)}
        print(json.dumps({"engine": name, **figures, "load_s": round(m["load_s"], 2), "threads": args.threads}))
    if args.gguf:
        ours, peer = median["halfbyte"], median["llama.cpp"]
        ratios = {f"{figure}_ratio": round(ours[figure] / peer[figure], 2) for figure in ("prefill", "decode")}
        print(json.dumps({"halfbyte over llama.cpp": ratios}))


if __name__ == "__main__":
    main()
