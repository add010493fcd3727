"""Seconds that each prompt parser takes on 0.25, 0.5 and 1 MB, on ordinary text and on text made to hurt.

    python benchmarks/prompt_parsers.py

Prints a line of JSON a parser and kind of text. `growth` is the time at 1 MB over that at 0.25 MB: 4 is linear, 16 is
quadratic. What a parser refuses counts too, if it takes its time.
"""

from __future__ import annotations

import contextlib
import gc
import json
import time
from collections.abc import Callable

from halfbyte.errors import PromptError
from halfbyte.prompts.context import Block, ContextPrompt
from halfbyte.prompts.cot import ChainOfThought
from halfbyte.prompts.functions import FunctionPrompt
from halfbyte.prompts.plainformat import plain_code

SIZES = (250_000, 500_000, 1_000_000)
PROSE = "The quick brown fox jumps over the lazy dog.\n"
CONTEXT = ContextPrompt(
    [Block("green berries", {"date": "2021-01-01", "url": f"https://web.site/{i}"}) for i in range(100)], "Source?"
)
FUNCTION = {
    "name": "f",
    "parameters": {"properties": {"x": {"type": "string"}, "y": {"type": "array"}, "z": {"type": "object"}}},
}
CALL = '{"function": "f", "params": {"x": "some text", "y": [1, 2.5, true]}}\n'
YAML = "function: f\nparams:\n  x: some text\n  y: [1, 2.5, true]\n"
BLOCK = f"BEGININPUT\nBEGINCONTEXT\ndate: 2021-01-01\nENDCONTEXT\n{PROSE}ENDINPUT\n"
SOLUTION = f"Solution 1: {PROSE}Final answer: 10\n"
RANK = "Ranking of solutions from best to worst:\n1. Solution 1: x\n"

JSON, YAML_FORM = (FunctionPrompt([FUNCTION], form).parse for form in ("json", "yaml"))
COT = ChainOfThought().parse

# name, parser, text before, text repeated, text after
CASES: list[tuple[str, Callable[[str], object], str, str, str]] = [
    ("context: blocks", ContextPrompt.parse, "", BLOCK, "BEGININSTRUCTION\nx"),
    ("context: metadata", ContextPrompt.parse, "BEGININPUT\nBEGINCONTEXT\n", "a: b\n", "ENDCONTEXT\n"),
    ("context: backslashes", ContextPrompt.parse, "BEGININPUT\nEND", "\\", "\nENDINPUT\nBEGININSTRUCTION\nx"),
    ("context: never closed", ContextPrompt.parse, "", "BEGININPUT\n", ""),
    ("citations: sources", CONTEXT.check, "", "Berries.\nSource:\ndate: 2021-01-01\nurl: https://web.site/7\n\n", ""),
    ("citations: one date again and again", CONTEXT.check, "Berries.\nSource:\n", "date: 2021-01-01\n", ""),
    ("citations: headers", CONTEXT.check, "", "Source:", ""),
    ("citations: headers in a line", CONTEXT.check, "", " Source: date", ""),
    ("json: calls", JSON, "", CALL, ""),
    ("json: one long text", JSON, '{"function": "f", "params": {"x": "', "some text ", '"}}'),
    ("json: many keys", JSON, '{"function": "f", "params": {"z": {"": 0', "", "}}}"),
    ("json: open braces", JSON, "", '{"a":', ""),
    ("json: open quotes", JSON, "", '{"', ""),
    ("json: escapes", JSON, '{"', "\\", ""),
    ("json: brackets", JSON, "", "[{", ""),
    ("json: spaces", JSON, "", "{        ", ""),
    ("json: digits", JSON, '{"function": ', "9", "}"),
    ("yaml: calls", YAML_FORM, "", YAML, ""),
    ("yaml: one long text", YAML_FORM, "function: f\nparams:\n  x: |\n", f"    {PROSE}", ""),
    ("yaml: names", YAML_FORM, "", "function: f\n", ""),
    ("yaml: brackets", YAML_FORM, "function: f\nparams:\n  y: ", "[", ""),
    ("yaml: question marks", YAML_FORM, "function: f\nparams:\n  ", "? ", ""),
    ("yaml: tabs", YAML_FORM, "", "\t", "function:"),
    ("cot: solutions", COT, "", SOLUTION, RANK + "Best and final answer: 10"),
    ("cot: ranks", COT, SOLUTION + RANK, "1. Solution 1: x\nwhy\n", "Best and final answer: 10"),
    ("cot: reasons", COT, SOLUTION + RANK, "why\n", "Best and final answer: 10"),
    ("plain: fences", plain_code, "", f"```python\n{PROSE}```\n", ""),
    ("plain: open fences", plain_code, "", "```\n", ""),
    ("plain: backticks", plain_code, "", "`", ""),
    ("plain: prose", plain_code, "", PROSE, ""),
]


def main() -> None:
    for name, parse, before, unit, after in CASES:
        if not unit:
            continue
        texts = [before + unit * ((size - len(before) - len(after)) // len(unit)) + after for size in SIZES]
        seconds = [best_of(parse, text) for text in texts]
        growth = round(seconds[-1] / seconds[0], 1)
        print(json.dumps({"parser": name, "seconds": [round(s, 4) for s in seconds], "growth": growth}), flush=True)


def best_of(parse: Callable[[str], object], text: str, times: int = 3) -> float:
    found = []
    for _ in range(times):
        gc.collect()
        started = time.perf_counter()
        with contextlib.suppress(PromptError):
            parse(text)
        found.append(time.perf_counter() - started)
    return min(found)


if __name__ == "__main__":
    main()
