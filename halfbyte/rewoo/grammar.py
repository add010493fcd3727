"""Grammars of the card's plan form, built from the tool list: text that they allow is a plan that can be run.

Steps are numbered from 0 without a gap, each argument refers only to steps before it, and only to tools that exist. The
rules are therefore unrolled, one set a step. What they leave out, though `parse_plan` reads it: brackets, line ends and
other colons before an `e` within arguments.
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


def plan_grammar(tools: Iterable[str | Tool], max_steps: int = 8) -> str:
    """The grammar for llguidance, in its Lark form. Raises RequestError if a tool's name cannot stand in a plan."""
    names = " | ".join(f'"{name}"' for name in tool_names(tools))
    lines = ["start: step_0", f"tool: {names}", f"PLAN: /{PLAN_CHAR}{{1,{LONGEST_PLAN}}}/"]
    for k in range(max_steps):
        references = _numbers(k)
        more = f"(step_{k + 1} | answer_{k})" if k + 1 < max_steps else f"answer_{k}"
        lines += [
            f'step_{k}: "Plan: " PLAN "\\n:evidence{k}: = " tool "[" ARGUMENT_{k} "]\\n" {more}',
            f"ARGUMENT_{k}: /({_argument(references)}){{1,{LONGEST_ARGUMENT}}}/",
            f'answer_{k}: "Answer: " ANSWER_{k}',
            f"ANSWER_{k}: /({PLAN_CHAR}{{1,{LONGEST_PLAN}}})?:evidence({_numbers(k + 1)}):/",
        ]
    return "\n".join(lines) + "\n"


def plan_gbnf(tools: Iterable[str | Tool], max_steps: int = 8) -> str:
    """The same grammar in llama.cpp's form."""
    names = " | ".join(f'"{name}"' for name in tool_names(tools))
    lines = ["root ::= step-0", f"tool ::= {names}", f"plan ::= {PLAN_CHAR}{{1,{LONGEST_PLAN}}}"]
    for k in range(max_steps):
        more = f"(step-{k + 1} | answer-{k})" if k + 1 < max_steps else f"answer-{k}"
        reference = f' | ":evidence" ({_alternatives(k)}) ":"' if k else ""
        lines += [
            f'step-{k} ::= "Plan: " plan "\\n:evidence{k}: = " tool "[" argument-{k} "]\\n" {more}',
            f'argument-{k} ::= ({ARGUMENT_CHAR} | ":" [^eE\\n\\r:#\\[\\]]{reference}){{1,{LONGEST_ARGUMENT}}}',
            f'answer-{k} ::= "Answer: " plan? ":evidence" ({_alternatives(k + 1)}) ":"',
        ]
    return "\n".join(lines) + "\n"


def tool_names(tools: Iterable[str | Tool]) -> list[str]:
    """The names of tools, checked."""
    names = [tool if isinstance(tool, str) else tool.name for tool in tools]
    for name in names:
        if not re.fullmatch(r"[A-Za-z_][\w.-]*", name, re.ASCII):
            raise RequestError(f"{name!r} cannot be a tool's name in a plan: it must be letters, digits, _ . and -")
    if not names:
        raise RequestError("a plan needs at least one tool")
    return names


def _argument(references: str) -> str:
    return f"{ARGUMENT_CHAR}|{NO_REFERENCE}" + (f"|:evidence({references}):" if references else "")


def _numbers(count: int) -> str:
    return "|".join(map(str, range(count)))


def _alternatives(count: int) -> str:
    return " | ".join(f'"{n}"' for n in range(count))
