"""Serving on a CPU, ours beside llama.cpp and OpenVINO GenAI in the same run: one JSON object a line.

    python benchmarks/cpu_serving.py REPOSITORY [--gguf FILE.gguf] [--llama-cpp PYTHON] [--openvino PYTHON]
        [--openvino-path FOLDER] [--rounds 3] [--threads 2]

Each side runs in a process of its own, in turn, `rounds` times; figures are medians, tokens a second where not said.
`decode`: 128 greedy tokens behind a context of 16, end-of-text ignored. `prefill`: 300 tokens into an empty cache.
`decode_16`: all tokens of 16 such requests together. `cold_start_s`: from the start of the process to the first token
of a prompt of 16, in a process for that alone. `memory_mb`: what loading and these requests added to the process, in
memory of its own (anonymous) and in pages of files. Ours has more: `python_share`, the part of a step that is not
native code, at batch 1 and 16; `constraint_us_KIND_WAY_BATCH`, what a constraint adds to a token (of 1 request or 16,
greedy, or drawn at temperature 0.8 and top_p 0.95; an answer of 129 tokens beside a free one, each step's work beside
the network's passes taken as the median of 7 rounds, of 3 for 16 requests, taking the request in included);
`packed_mb`, the weights as the kernels hold them.

llama-cpp-python compiles for some minutes and may live in an environment of its own, whose interpreter --llama-cpp
names; OpenVINO GenAI may lie in a folder (`pip install --target FOLDER openvino-genai`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

COMMON = """
import json, sys, time
model, threads, only_first = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "first"
PROMPT, PREFILL, CONTEXT, DECODE, MANY = "The history of science is " * 60, 300, 16, 128, 16
def memory():
    fields = dict(line.split(":") for line in open("/proc/self/status") if line.startswith("Rss"))
    own, files = (int(fields[name].split()[0]) * 1024 / 1e6 for name in ("RssAnon", "RssFile"))
    return {"anonymous": own, "files": files}
def added(before):
    return {name: size - before[name] for name, size in memory().items()}
"""

OURS = (
    COMMON
    + """
import torch
torch.set_num_threads(threads)
from halfbyte import LLM, SamplingParams
from halfbyte.kernels.cpu import packed
from halfbyte.kernels.cpu.library import Library
before, held = memory(), []
for kind in (packed.PackedInt4, packed.PackedInt8):
    def noted(self, *given, inner=kind.__init__):
        inner(self, *given)
        held.append(self)
    kind.__init__ = noted
llm = LLM(model, max_model_len=1024, kv_cache="256MiB", enable_prefix_caching=False)
ids = llm.tokenizer.encode(PROMPT)[:PREFILL]
def run(prompts, ways):
    # seconds from the moment when all have their first token, and the tokens after it
    engine = llm.engine
    for prompt, way in zip(prompts, ways):
        engine.add(prompt, way)
    while engine.scheduler.waiting or any(s.answer.count == 0 for s in engine.scheduler.running):
        engine.step()
    count, start = 0, time.perf_counter()
    while engine.has_work:
        count += len(engine.step())
    return time.perf_counter() - start, count
def way(**more):
    return SamplingParams(temperature=0, max_tokens=DECODE + 1, ignore_eos=True, **more)
if only_first:
    next(iter(llm.stream({"prompt_token_ids": ids[:CONTEXT]}, SamplingParams(temperature=0, max_tokens=2))))
    print("first", flush=True)
    sys.exit()
spent, plain = [0.0], Library.__call__
def timed(self, *given):
    start = time.perf_counter()
    plain(self, *given)
    spent[0] += time.perf_counter() - start
found = {}
for _ in range(2):
    start = time.perf_counter()
    list(llm.stream({"prompt_token_ids": ids}, SamplingParams(temperature=0, max_tokens=1)))
    found["prefill"] = len(ids) / (time.perf_counter() - start)
    one, count = run([ids[:CONTEXT]], [way()])
    found["decode"] = count / one
    many, tokens = run([ids[i : i + CONTEXT] for i in range(MANY)], [way()] * MANY)
    found["decode_16"] = tokens / many
found["decode_16_over_1"] = found["decode_16"] / found["decode"]
found["memory_mb"] = added(before)
found["packed_mb"] = sum(
    t.nbytes for w in held for t in vars(w).values() if isinstance(t, torch.Tensor)
) / 1e6
Library.__call__ = timed
for batch in (1, MANY):
    spent[0] = 0.0
    start = time.perf_counter()
    run([ids[:CONTEXT]] * batch, [way()] * batch)
    found[f"python_share_{batch}"] = 1 - spent[0] / (time.perf_counter() - start)
def network_timed(self, function, *given):  # what is not the network's passes is what a constraint adds to
    start = time.perf_counter()
    plain(self, function, *given)
    spent[0] += time.perf_counter() - start if function in ("hb_pass", "hb_head") else 0
Library.__call__ = network_timed
schema = {"type": "array", "minItems": 1000, "items": {"type": "object", "properties": {
    "name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"], "additionalProperties": False}}
kinds = {
    "json_schema": json.dumps(schema), "regex": "([A-Z][a-z]{1,9} [a-z ]{3,20}[.!] )*",
    "choice": ["the answer is " * 70 + end for end in ("yes", "no")],
    "grammar": 'start: (item " ")+\\nitem: /[a-z]{1,9}/ | "(" item ")"',
}
def drawing(**more):
    return SamplingParams(temperature=0.8, top_p=0.95, seed=1, max_tokens=DECODE + 1, ignore_eos=True, **more)
def host_costs(batch, way):
    # seconds beside the network, a token: of taking the request in, and of each step
    engine, costs = llm.engine, []
    start = time.perf_counter()
    for _ in range(batch):
        engine.add(ids[:CONTEXT], way)
    costs.append((time.perf_counter() - start) / batch)
    while engine.has_work:
        start, spent[0] = time.perf_counter(), 0.0
        engine.step()
        costs.append((time.perf_counter() - start - spent[0]) / batch)
    return costs
def a_token(rounds):
    # every round does the same: what one of them took longer for was the machine's
    steps = [sorted(step)[len(step) // 2] for step in zip(*rounds)]
    return sum(steps) / (len(steps) - 1) * 1e6
for name, make in (("greedy", way), ("sampled", drawing)):
    for kind, value in kinds.items():
        for batch in (1, MANY) if kind == "json_schema" else (1,):
            free, bound = [], []
            for _ in range(7 if batch == 1 else 3):
                free.append(host_costs(batch, make()))
                bound.append(host_costs(batch, make(**{kind: value})))
            found[f"constraint_us_{kind}_{name}_{batch}"] = a_token(bound) - a_token(free)
print(json.dumps(found))
"""
)

LLAMA_CPP = (
    COMMON
    + """
import numpy, llama_cpp
from llama_cpp import Llama
before = memory()
llm = Llama(model, n_ctx=2048 if only_first else 4096, n_threads=threads, n_threads_batch=threads, verbose=False)
ids = llm.tokenize(PROMPT.encode())[:PREFILL]
if only_first:
    llm.eval(ids[:CONTEXT])
    llm.sample(temp=0.0)
    print("first", flush=True)
    sys.exit()
found = {}
for _ in range(2):
    llm.reset()
    start = time.perf_counter()
    llm.eval(ids)
    found["prefill"] = len(ids) / (time.perf_counter() - start)
    llm.reset()
    llm.eval(ids[:CONTEXT])
    start = time.perf_counter()
    for _ in range(DECODE):
        llm.eval([llm.sample(temp=0.0)])
    found["decode"] = DECODE / (time.perf_counter() - start)
found["memory_mb"] = added(before)
settings = llama_cpp.llama_context_default_params()
settings.n_ctx, settings.n_seq_max, settings.n_batch = 4096, MANY, 512
settings.n_threads = settings.n_threads_batch = threads
context = llama_cpp.llama_init_from_model(llm.model, settings)
size = llm.n_vocab()
def decode(rows):  # (token, position, sequence)
    batch = llama_cpp.llama_batch_init(len(rows), 0, 1)
    batch.n_tokens = len(rows)
    for i, (token, position, sequence) in enumerate(rows):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, True
        batch.seq_id[i][0] = sequence
    assert llama_cpp.llama_decode(context, batch) == 0
    llama_cpp.llama_batch_free(batch)
    logits = llama_cpp.llama_get_logits(context)
    return numpy.ctypeslib.as_array(logits, shape=(len(rows), size)).argmax(1)
rows = [(ids[s + i], i, s) for s in range(MANY) for i in range(CONTEXT)]
tokens = decode(rows)[CONTEXT - 1 :: CONTEXT]
start = time.perf_counter()
for step in range(DECODE):
    tokens = decode([(int(t), CONTEXT + step, s) for s, t in enumerate(tokens)])
found["decode_16"] = MANY * DECODE / (time.perf_counter() - start)
found["decode_16_over_1"] = found["decode_16"] / found["decode"]
print(json.dumps(found))
"""
)

OPENVINO = (
    COMMON
    + """
import openvino_genai as genai
before = memory()
pipe = genai.LLMPipeline(model, "CPU", INFERENCE_NUM_THREADS=threads)
config = genai.GenerationConfig()
config.ignore_eos, config.do_sample = True, False
if only_first:
    config.max_new_tokens = 1
    pipe.generate(["The history of science is The history of science is The history"], config)
    print("first", flush=True)
    sys.exit()
found, asked = {}, 0
def seconds(text, count, tokens):
    # each prompt begins with words of its own: what the pipeline remembers of others is of no use
    global asked
    asked += count
    prompts = [f"{i} {i * 7919} {text}" for i in range(asked - count, asked)]
    config.max_new_tokens = config.min_new_tokens = tokens
    start = time.perf_counter()
    result = pipe.generate(prompts, config)
    return time.perf_counter() - start, result.perf_metrics.get_num_input_tokens()
for _ in range(2):
    first, tokens = seconds(PROMPT[: 5 * PREFILL], 1, 1)
    found["prefill"] = tokens / first
for count, name in ((1, "decode"), (MANY, "decode_16")):
    for _ in range(2):
        first, _ = seconds("The history of science is", count, 1)
        whole, _ = seconds("The history of science is", count, DECODE)
        found[name] = count * (DECODE - 1) / (whole - first)
found["decode_16_over_1"] = found["decode_16"] / found["decode"]
found["memory_mb"] = added(before)
print(json.dumps(found))
"""
)


def run(side: tuple[str, str, str], threads: int, way: str, more: str | None) -> tuple[str, float]:
    """The last line that a side printed, and the seconds it took until it was there."""
    python, program, model = side
    environment = os.environ | ({"PYTHONPATH": more} if more else {})
    start = time.perf_counter()
    process = subprocess.Popen(
        [python, "-c", program, model, str(threads), way],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    last, seconds = "", 0.0
    for line in process.stdout:
        last, seconds = line, time.perf_counter() - start
    _, errors = process.communicate()
    if process.returncode:
        sys.exit(f"{python}: {errors.strip().splitlines()[-1]}")
    return last, seconds


def middle(values: list[Any]) -> Any:
    """The median, field by field."""
    if isinstance(values[0], dict):
        return {name: middle([value[name] for value in values if name in value]) for name in values[0]}
    return round(statistics.median(values), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository")
    parser.add_argument("--gguf", help="the same model as GGUF; without it no peer is measured")
    parser.add_argument("--llama-cpp", metavar="PYTHON")
    parser.add_argument("--openvino", metavar="PYTHON")
    parser.add_argument("--openvino-path", metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    sides = {"halfbyte": (sys.executable, OURS, args.repository)}
    if args.gguf and args.llama_cpp:
        sides["llama.cpp"] = (args.llama_cpp, LLAMA_CPP, args.gguf)
    if args.gguf and args.openvino:
        sides["openvino-genai"] = (args.openvino, OPENVINO, args.gguf)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, side in sides.items():
            more = args.openvino_path if name == "openvino-genai" else None
            figures = json.loads(run(side, args.threads, "all", more)[0])
            found[name].append(figures | {"cold_start_s": run(side, args.threads, "first", more)[1]})
    medians = {name: middle(rounds) for name, rounds in found.items()}
    for name, figures in medians.items():
        print(json.dumps({"engine": name, "threads": args.threads, **figures}), flush=True)
    ours = medians.pop("halfbyte")
    for name, peer in medians.items():
        ratios = {
            f: round(ours[f] / peer[f], 2) for f in ("decode", "prefill", "decode_16", "cold_start_s") if f in peer
        }
        print(json.dumps({f"halfbyte over {name}": ratios}))


if __name__ == "__main__":
    main()
