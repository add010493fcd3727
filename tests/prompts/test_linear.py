"""Every reader takes steps in proportion to its input; benchmarks/prompt_parsers.py shows the seconds at 1 MB."""

from __future__ import annotations

import contextlib
import sys

import pytest

from halfbyte.errors import PromptError
from halfbyte.prompts.context import Block, ContextPrompt
from halfbyte.prompts.cot import ChainOfThought
from halfbyte.prompts.functions import FunctionPrompt
from halfbyte.prompts.plainformat import plain_code

FUNCTION = {"name": "f", "parameters": {"properties": {"x": {"type": "string"}}}}
CITED = ContextPrompt([Block("a", {"date": "1", "n": i}) for i in range(50)], "Source?")
JSON, YAML = (FunctionPrompt([FUNCTION], form).parse for form in ("json", "yaml"))
COT = ChainOfThought().parse

CASES = {
    "blocks": (ContextPrompt.parse, "BEGININPUT\nBEGINCONTEXT\na: b\nENDCONTEXT\nx\nENDINPUT\n"),
    "unclosed": (ContextPrompt.parse, "BEGININPUT\n"),
    "sources": (CITED.check, "a\nSource:\ndate: 1\nn: 7\n\n"),
    "shared source": (CITED.check, "Source: date: 1\n"),
    "headers": (CITED.check, " Source: date"),
    "sources in brackets": (CITED.check, "(Source: date: 1 "),
    "sources and prose": (CITED.check, "Source: date: 1 said (Source: 1). "),
    "json": (JSON, '{"function": "f", "params": {"x": "y"}} '),
    "json open": (JSON, '{"a": '),
    "json quotes": (JSON, '{"'),
    "yaml": (YAML, "function: f\nparams:\n  x: y\n"),
    "yaml names": (YAML, "function: f\n"),
    "solutions": (COT, "Solution 1: x\nFinal answer: y\n"),
    "ranks": (COT, "Solution 1: x\nRanking of solutions:\n1. Solution 1: x\n"),
    "fences": (plain_code, "```python\nx\n```\n"),
    "prose": (plain_code, "It does what you want it to.\n\n"),
}


def steps(read, text: str) -> int:
    """Lines of Python that are run."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with contextlib.suppress(PromptError):
            read(text)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("name", CASES)
def test_steps_grow_with_the_input(name):
    read, unit = CASES[name]
    few, many = (steps(read, unit * n) for n in (200, 1600))
    assert many < 12 * few + 1000  # 8 is linear, 64 quadratic
