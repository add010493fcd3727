"""Function calling with and without a grammar: how many answers are valid calls, and how many are the right ones.

    python benchmarks/function_calling.py MODEL [--choices 4] [--limit N] [--form json|yaml]

benchmarks/data/function_calls.json holds functions with a request for each. A prompt shows the right function among
others (drawn with a fixed seed, in a fixed order); answers are greedy. Prints a line of JSON a way: `valid` counts
answers that read as a call of a shown function with the right parameters in the right types, `function` those that call
the right function, `exact` those whose parameters are also as expected (texts compared without case).
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

from halfbyte import LLM, SamplingParams
from halfbyte.errors import PromptError
from halfbyte.prompts.functions import FunctionPrompt

DATA = Path(__file__).parent / "data" / "function_calls.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--choices", type=int, default=4, help="functions in a prompt")
    parser.add_argument("--limit", type=int, help="requests to try")
    parser.add_argument("--form", choices=("json", "yaml"), default="json")
    parser.add_argument("--ways", nargs="+", default=["free", "schema", "grammar"], help="free, schema (JSON), grammar")
    parser.add_argument("--free-tokens", type=int, default=160, help="most tokens of an answer without a grammar")
    options = parser.parse_args()
    cases = json.loads(DATA.read_text(encoding="utf-8"))
    llm = LLM(options.model)
    for way in options.ways:
        if way != "schema" or options.form == "json":
            print(json.dumps(measure(llm, cases, way, options)), flush=True)


def measure(llm: LLM, cases: list[dict[str, Any]], way: str, options: argparse.Namespace) -> dict[str, Any]:
    counts = {"valid": 0, "function": 0, "exact": 0}
    tokens, started = 0, time.perf_counter()
    chosen = cases[: options.limit]
    for i, case in enumerate(chosen):
        prompt = FunctionPrompt(shown(cases, i, options.choices), options.form, allow_none=False, max_string=64)
        params = SamplingParams(
            temperature=0, max_tokens=options.free_tokens if way == "free" else 512, **constraint(prompt, way)
        )
        messages = [{"role": "user", "content": prompt.render(case["request"])}]
        output = llm.chat(messages, params, use_tqdm=False)[0].outputs[0]
        tokens += len(output.token_ids)
        for name, right in judged(prompt, output.text, case).items():
            counts[name] += right
    seconds = time.perf_counter() - started
    return {
        "way": way,
        "form": options.form,
        "requests": len(chosen),
        **counts,
        "tokens": tokens,
        "seconds": round(seconds, 1),
    }


def shown(cases: list[dict[str, Any]], index: int, count: int) -> list[dict[str, Any]]:
    """The right function among others."""
    draw = random.Random(index)
    others = draw.sample([case["function"] for case in cases[:index] + cases[index + 1 :]], count - 1)
    functions = [cases[index]["function"], *others]
    draw.shuffle(functions)
    return functions


def constraint(prompt: FunctionPrompt, way: str) -> dict[str, Any]:
    if way == "free":
        return {}
    return {"json_schema": prompt.json_schema()} if way == "schema" else {"grammar": prompt.grammar().lark()}


def judged(prompt: FunctionPrompt, answer: str, case: dict[str, Any]) -> dict[str, bool]:
    try:
        calls = prompt.parse(answer)
    except PromptError:
        calls = ()
    right = len(calls) == 1 and calls[0].function == case["function"]["name"]
    exact = right and same(calls[0].params, case["params"])
    return {"valid": bool(calls), "function": right, "exact": exact}


def same(found: Any, expected: Any) -> bool:
    if isinstance(found, dict) and isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    if isinstance(found, str) and isinstance(expected, str):
        return found.casefold().strip(" .") == expected.casefold()
    return bool(found == expected)


if __name__ == "__main__":
    main()
