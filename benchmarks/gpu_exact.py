"""Whether a GPU answers as the CPU does, and in a crowd as alone: greedy tokens of a real model.

    python benchmarks/gpu_exact.py REPOSITORY --text README.md --write cpu.json    # asks the CPU's kernels
    python benchmarks/gpu_exact.py REPOSITORY --text README.md --against cpu.json  # on a machine with a GPU
    ... --against cpu.json [--deterministic] [--kv-cache-dtype int8]

--against: 100 prompts of 8 to 200 tokens, 64 tokens each. Where two answers part, the CPU's two likeliest tokens
there are compared: `near_ties` are those whose logarithms of probability differ by less than 0.02. Then 1,000 mixed
requests (lengths, sampling with seeds, arrival while others run) at once, and 200 of them alone. A JSON line each.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

NEAR, TOKENS = 0.02, 64


def prompts(llm, text: str, count: int, seed: int) -> list[dict[str, list[int]]]:  # type: ignore[no-untyped-def]
    """Pieces of a text that begin anywhere."""
    rng, ids = random.Random(seed), llm.tokenizer.encode(text)
    starts = [rng.randrange(len(ids) - 200) for _ in range(count)]
    return [{"prompt_token_ids": ids[start : start + rng.randrange(8, 200)]} for start in starts]


def answers(llm, text: str):  # type: ignore[no-untyped-def]
    """Token ids and the margins between each step's two likeliest."""
    from halfbyte import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, logprobs=2)
    found = []
    for output in llm.generate(prompts(llm, text, 100, 1), params, use_tqdm=False):
        answer = output.outputs[0]
        steps = [sorted((p.logprob for p in step.values()), reverse=True) for step in answer.logprobs]
        found.append({"ids": answer.token_ids, "margins": [step[0] - step[1] for step in steps]})
    return found


def compared(here, there) -> dict[str, object]:  # type: ignore[no-untyped-def]
    margins = []
    for ours, theirs in zip(here, there, strict=True):
        parted = next((i for i, (a, b) in enumerate(zip(ours["ids"], theirs["ids"], strict=True)) if a != b), None)
        if parted is not None:
            margins.append(round(theirs["margins"][parted], 5))
    return {
        "answers": len(there), "the_same": len(there) - len(margins), "near_ties": sum(m < NEAR for m in margins),
        "other": [m for m in margins if m >= NEAR],
    }  # fmt: skip


def mixed(llm, text: str) -> dict[str, object]:  # type: ignore[no-untyped-def]
    from halfbyte import SamplingParams

    rng = random.Random(2)
    given = prompts(llm, text, 1000, 3)
    params = [
        SamplingParams(
            temperature=rng.choice((0, 0, 0.8)), top_p=0.95, seed=i, max_tokens=rng.randrange(8, 64), ignore_eos=True
        )
        for i in range(len(given))
    ]
    crowd = [output.outputs[0].token_ids for output in llm.generate(given, params, use_tqdm=False)]
    some = rng.sample(range(len(given)), 200)
    alone = {i: llm.generate([given[i]], [params[i]], use_tqdm=False)[0].outputs[0].token_ids for i in some}
    same = [i for i in some if alone[i] == crowd[i]]
    greedy = [i for i in some if params[i].temperature == 0]
    return {
        "requests": len(given), "complete": sum(len(c) == p.max_tokens for c, p in zip(crowd, params, strict=True)),
        "asked_alone": len(some), "the_same": len(same), "greedy": len(greedy),
        "greedy_the_same": len(set(same) & set(greedy)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository")
    parser.add_argument("--text", type=Path, required=True, help="what prompts are taken from")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--compute", default="auto", help="of --write, see halfbyte generate")
    parser.add_argument("--against", type=Path)
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--kv-cache-dtype", choices=("auto", "fp8", "int8"), default="auto")
    args = parser.parse_args()
    from halfbyte import LLM

    compute = args.compute if args.write else "auto"
    llm = LLM(
        args.repository,
        device="cpu" if args.write else "auto",
        compute=compute,
        max_model_len=512,
        deterministic=args.deterministic,
        kv_cache_dtype=args.kv_cache_dtype,
    )
    text = args.text.read_text()
    if args.write:
        args.write.write_text(json.dumps(answers(llm, text)))
    if args.against:
        print(json.dumps({"against_the_cpu": compared(answers(llm, text), json.loads(args.against.read_text()))}))
        print(json.dumps({"crowd": mixed(llm, text)}), flush=True)


if __name__ == "__main__":
    main()
