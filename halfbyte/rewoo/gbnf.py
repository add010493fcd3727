"""The grammar of plans in llama.cpp's form. It has no quotes, and does not tell pages from other evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfbyte.rewoo.grammar import (
    ARGUMENT_CHAR,
    LONGEST_ANSWER,
    LONGEST_ARGUMENT,
    LONGEST_PLAN,
    LONGEST_SUM,
    PLAN_CHAR,
    by_form,
    literals,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from halfbyte.rewoo.tool import Tool

_GBNF_TYPED = {
    "int": "integer",
    "float": "number",
    "bool": '("true" | "false")',
    "dict": '"{" (pair (", " pair){0,7})? "}"',
}
_GBNF_SUM = r'[0-9+*/%.(), -] | "sqrt" | "log" | "exp" | "abs" | "round" | "min" | "max" | "pi"'
_GBNF_RULES = r"""integer ::= "-"? ("0" | [1-9] [0-9]{0,14})
number ::= integer ("." [0-9]{1,15})?
value ::= "\"" [^"\\\x00-\x1f:#\[\]]{0,100} "\"" | number | "true" | "false" | "null"
pair ::= "\"" [A-Za-z_] [A-Za-z0-9_]{0,30} "\": " value"""


def plan_gbnf(tools: Iterable[str | Tool], max_steps: int = 8) -> str:
    """The grammar of `plan_grammar`, as far as said above. Raises RequestError as it does."""
    kinds = by_form(tools, quotes=False)
    lines = ["root ::= step-0", f"plan ::= {PLAN_CHAR}{{1,{LONGEST_PLAN}}}", _GBNF_RULES]
    lines += [f"tool-{kind} ::= " + literals(names) for kind, names in kinds.items()]
    for k in range(max_steps):
        arguments = {kind: _gbnf_argument(kind, k, bool(kinds.keys() - {"asks"})) for kind in kinds}
        more = f"(step-{k + 1} | answer-{k})" if k + 1 < max_steps else f"answer-{k}"
        calls = " | ".join(f'tool-{kind} "[" {kind}-{k} "]"' for kind in kinds if arguments[kind])
        lines += [
            f'step-{k} ::= "Plan: " plan "\\n:evidence{k}: = " ({calls}) "\\n" {more}',
            *(f"{kind}-{k} ::= {argument}" for kind, argument in arguments.items() if argument),
            f'answer-{k} ::= "Answer: " ({PLAN_CHAR}{_gbnf_or_reference(k)}){{0,{LONGEST_ANSWER}}} ":evidence{k}:"',
        ]
    return "\n".join(lines) + "\n"


def _gbnf_argument(kind: str, step: int, others: bool) -> str | None:
    reference = _gbnf_or_reference(step)
    text = f'({ARGUMENT_CHAR} | ":" [^eE\\n\\r:#\\[\\]]{reference})'
    if kind == "asks" and (step or others):
        return f"{text}{{0,{LONGEST_ARGUMENT}}} {reference[3:]} {text}{{0,{LONGEST_ARGUMENT}}}" if step else None
    if kind == "sum":
        return f"({_GBNF_SUM}{reference}){{1,{LONGEST_SUM}}}"
    if kind in _GBNF_TYPED:
        return f"{_GBNF_TYPED[kind]}{reference}"
    return f"{text}{{1,{LONGEST_ARGUMENT}}}"


def _gbnf_or_reference(step: int) -> str:
    return f' | ":evidence" ({_alternatives(step)}) ":"' if step else ""


def _alternatives(count: int) -> str:
    return " | ".join(f'"{n}"' for n in range(count))
