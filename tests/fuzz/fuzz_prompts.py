"""Fuzzes every reader of halfbyte.prompts: whatever the bytes, a result or a located PromptError, nothing else.

    pip install atheris
    python tests/fuzz/fuzz_prompts.py -max_total_time=300 -max_len=4096

Not collected by pytest: the hypothesis tests beside the parsers are its short form.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["halfbyte.prompts"]):
    from halfbyte.errors import PromptError
    from halfbyte.prompts.context import Block, ContextPrompt, escape, unescape
    from halfbyte.prompts.cot import ChainOfThought
    from halfbyte.prompts.functions import FunctionPrompt
    from halfbyte.prompts.plainformat import plain_code

FUNCTIONS = [
    {
        "name": "f",
        "parameters": {"properties": {"x": {"type": "string"}, "n": {"type": "integer", "minimum": 0}, "o": {}}},
    },
    {
        "name": "g",
        "parameters": {
            "properties": {"a": {"type": "array", "items": {"anyOf": [{"type": "null"}, {"type": "boolean"}]}}},
            "required": ["a"],
        },
    },
]
JSON, YAML = (FunctionPrompt(FUNCTIONS, form) for form in ("json", "yaml"))
CITED = ContextPrompt(
    [Block("green", {"date": "1", "url": "https://a"}), Block("red", [("date", "1"), ("date", "2")])], "Source?"
)
WORDS = (
    "BEGININPUT", "BEGINCONTEXT", "ENDCONTEXT", "ENDINPUT", "BEGININSTRUCTION", "ENDINSTRUCTION", "Source:", "date: 1", "url: https://a",
    "Reference(s):", "function: f", "params:", '{"function": "g", "params": {"a": [null, true]}}', '{"function": ', "```json", "```", "Solution 1:",
    "Final answer:", "Ranking of solutions from best to worst:", "1. Solution 1: x", "Best and final answer: y", "  ", "\n", "- ", "&a ", "*a", "!!str ",
)  # fmt: skip


def one(data: bytes) -> None:
    provider = atheris.FuzzedDataProvider(data)
    parts = []
    while provider.remaining_bytes() and len(parts) < 60:
        if provider.ConsumeBool():
            parts.append(provider.PickValueInList(list(WORDS)) + ("\n" if provider.ConsumeBool() else ""))
        else:
            parts.append(provider.ConsumeUnicode(12))
    text = "".join(parts)
    for read in (ContextPrompt.parse, ChainOfThought().parse, JSON.parse, YAML.parse):
        try:
            read(text)
        except PromptError as error:
            assert error.line is not None
            assert error.column is not None
            assert error.line >= 1 <= error.column
    CITED.check(text)
    plain_code(text)
    assert unescape(escape(text)) == text
    again = ContextPrompt([Block(text)], text or "x") if text.strip() else None
    assert again is None or ContextPrompt.parse(again.render()) == again


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
