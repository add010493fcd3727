"""Grammars of the card's plan form, built from the tool list: text that they allow is a plan that can be run.

Steps are numbered from 0 without a gap, each argument refers only to steps before it, and only to tools that exist. The
rules are therefore unrolled, one set a step. A tool whose argument is a number, a boolean or a JSON object is given one
of these, or a reference alone. What the grammars leave out, though `parse_plan` reads it: brackets, line ends and other
colons before an `e` within arguments.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from halfbyte.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from halfbyte.rewoo.tool import Tool

# Arguments hold no bracket, so that no call can nest, and no colon that could begin another reference.
PLAN_CHAR = r"[^\n\r:#=\[\]`]"
ARGUMENT_CHAR = r"[^\n\r:#\[\]]"
NO_REFERENCE = r":[^eE\n\r:#\[\]]"
LONGEST_PLAN, LONGEST_ARGUMENT = 200, 300  # characters (a reference counts as one): a weak model would go on and on


# What a typed argument may be, in a form that regular expressions and GBNF (less its references) have in common.
_NUMBER = r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?"
_JSON_VALUE = rf'("[^"\\\x00-\x1f:#\[\]]{{0,100}}"|{_NUMBER}|true|false|null)'
_JSON_PAIR = rf'"[A-Za-z_][A-Za-z0-9_]{{0,30}}": {_JSON_VALUE}'
TYPED = {
    int: r"-?(0|[1-9][0-9]{0,14})",
    float: _NUMBER,
    bool: "(true|false)",
    dict: rf"\{{({_JSON_PAIR}(, {_JSON_PAIR}){{0,7}})?\}}",
}
_GBNF_TYPED = {
    int: "integer",
    float: "number",
    bool: '("true" | "false")',
    dict: '"{" (pair (", " pair){0,7})? "}"',
}
_GBNF_RULES = r"""integer ::= "-"? ("0" | [1-9] [0-9]{0,14})
number ::= integer ("." [0-9]{1,15})?
value ::= "\"" [^"\\\x00-\x1f:#\[\]]{0,100} "\"" | number | "true" | "false" | "null"
pair ::= "\"" [A-Za-z_] [A-Za-z0-9_]{0,30} "\": " value"""


def plan_grammar(tools: Iterable[str | Tool], max_steps: int = 8) -> str:
    """The grammar for llguidance, in its Lark form. Raises RequestError if a tool's name cannot stand in a plan."""
    kinds = _by_type(tools)
    lines = ["start: step_0", f"PLAN: /{PLAN_CHAR}{{1,{LONGEST_PLAN}}}/"]
    lines += [f"{_tool_rule(kind, '_')}: " + _literals(names) for kind, names in kinds.items()]
    for k in range(max_steps):
        references = _numbers(k)
        more = f"(step_{k + 1} | answer_{k})" if k + 1 < max_steps else f"answer_{k}"
        calls = " | ".join(f'{_tool_rule(kind, "_")} "[" {kind.__name__.upper()}_{k} "]"' for kind in kinds)
        lines += [
            f'step_{k}: "Plan: " PLAN "\\n:evidence{k}: = " ({calls}) "\\n" {more}',
            *(f"{kind.__name__.upper()}_{k}: /{_argument(kind, references)}/" for kind in kinds),
            f'answer_{k}: "Answer: " ANSWER_{k}',
            f"ANSWER_{k}: /({PLAN_CHAR}{{1,{LONGEST_PLAN}}})?:evidence({_numbers(k + 1)}):/",
        ]
    return "\n".join(lines) + "\n"


def plan_gbnf(tools: Iterable[str | Tool], max_steps: int = 8) -> str:
    """The same grammar in llama.cpp's form."""
    kinds = _by_type(tools)
    lines = ["root ::= step-0", f"plan ::= {PLAN_CHAR}{{1,{LONGEST_PLAN}}}", _GBNF_RULES]
    lines += [f"{_tool_rule(kind, '-')} ::= " + _literals(names) for kind, names in kinds.items()]
    for k in range(max_steps):
        more = f"(step-{k + 1} | answer-{k})" if k + 1 < max_steps else f"answer-{k}"
        calls = " | ".join(f'{_tool_rule(kind, "-")} "[" {kind.__name__}-{k} "]"' for kind in kinds)
        lines += [
            f'step-{k} ::= "Plan: " plan "\\n:evidence{k}: = " ({calls}) "\\n" {more}',
            *(f"{kind.__name__}-{k} ::= {_gbnf_argument(kind, k)}" for kind in kinds),
            f'answer-{k} ::= "Answer: " plan? ":evidence" ({_alternatives(k + 1)}) ":"',
        ]
    return "\n".join(lines) + "\n"


def _by_type(tools: Iterable[str | Tool]) -> dict[type, list[str]]:
    """Names of tools by what their arguments are; lists are texts of one line here."""
    given = list(tools)
    kinds: dict[type, list[str]] = {}
    for tool, name in zip(given, tool_names(given), strict=True):
        kind = str if isinstance(tool, str) else tool.argument_type
        kinds.setdefault(kind if kind in TYPED else str, []).append(name)
    return kinds


def _tool_rule(kind: type, dash: str) -> str:
    return f"tool{dash}{kind.__name__}"


def _literals(names: list[str]) -> str:
    return " | ".join(f'"{name}"' for name in names)


def tool_names(tools: Iterable[str | Tool]) -> list[str]:
    """The names of tools, checked."""
    names = [tool if isinstance(tool, str) else tool.name for tool in tools]
    for name in names:
        if not re.fullmatch(r"[A-Za-z_][\w.-]*", name, re.ASCII):
            raise RequestError(f"{name!r} cannot be a tool's name in a plan: it must be letters, digits, _ . and -")
    if not names:
        raise RequestError("a plan needs at least one tool")
    return names


def _argument(kind: type, references: str) -> str:
    reference = f"|:evidence({references}):" if references else ""
    if kind in TYPED:
        return f"({TYPED[kind]}{reference})"
    return f"({ARGUMENT_CHAR}|{NO_REFERENCE}{reference}){{1,{LONGEST_ARGUMENT}}}"


def _gbnf_argument(kind: type, step: int) -> str:
    reference = f' | ":evidence" ({_alternatives(step)}) ":"' if step else ""
    if kind in TYPED:
        return f"{_GBNF_TYPED[kind]}{reference}"
    return f'({ARGUMENT_CHAR} | ":" [^eE\\n\\r:#\\[\\]]{reference}){{1,{LONGEST_ARGUMENT}}}'


def _numbers(count: int) -> str:
    return "|".join(map(str, range(count)))


def _alternatives(count: int) -> str:
    return " | ".join(f'"{n}"' for n in range(count))
