"""Grammars of the card's plan form, built from the tool list: text that they allow is a plan that can be run.

Steps are numbered from 0 without a gap, each argument refers only to steps before it, and only to tools that exist; the
answer refers to the last step. The rules are therefore unrolled, one set a step. A tool whose argument is a number, a
boolean or a JSON object is given one of these, or a reference alone; a tool's `form` and `gives_pages` narrow arguments
further: a name is quoted from the question or is evidence, and no page is a name. What the grammars leave out, though
`parse_plan` reads it: brackets, line ends and other colons before an `e` within arguments.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from halfbyte.errors import RequestError
from halfbyte.rewoo.quotes import quote_terminal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from halfbyte.rewoo.tool import Tool

# Arguments hold no bracket, so that no call can nest, and no colon that could begin another reference.
PLAN_CHAR = r"[^\n\r:#=\[\]`]"
ARGUMENT_CHAR = r"[^\n\r:#\[\]]"
NO_REFERENCE = r":[^eE\n\r:#\[\]]"
MOST_TRACKED = 8  # steps: that many have 255 rows of pages and other evidence
# Characters (a reference counts as one): a weak model would go on and on.
LONGEST_PLAN, LONGEST_ARGUMENT, LONGEST_ANSWER, LONGEST_SUM = 200, 300, 80, 80


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
_TYPED_BY_NAME = {kind.__name__: form for kind, form in TYPED.items()}
_SUM = r"[0-9+\-*\/%.(), ]|sqrt|log|exp|abs|round|min|max|pi"


def plan_grammar(tools: Iterable[str | Tool], max_steps: int = 8, question: str = "") -> str:
    """The grammar for llguidance, in its Lark form. Raises RequestError if a tool's name cannot stand in a plan.

    question: what tools of the form "quote" take their words from; without it they take any text.
    """
    return _Lark(list(tools), max_steps, re.sub(r"[\[\]:#]", " ", question)).text()


class _Lark:
    """Rules for every row of steps so far, which differ by the ones whose evidence is a page."""

    def __init__(self, tools: list[str | Tool], max_steps: int, question: str) -> None:
        self._most, quote = max_steps, quote_terminal(question)
        tool_names(tools)
        tracked = max_steps <= MOST_TRACKED
        self._kinds: dict[bool, dict[str, list[str]]] = {}  # by whether evidence is a page, and by argument
        for page in (False, True):
            some = [t for t in tools if page == (tracked and not isinstance(t, str) and t.gives_pages)]
            self._kinds[page] = by_form(some, quotes=bool(quote)) if some else {}
        self._only_asks = set(self._kinds[False]) | set(self._kinds[True]) == {"asks"}
        self._terminals: dict[str, str] = {}  # by what they are
        self._answered: set[int] = set()  # lengths of plan whose answer has its rule
        self._lines = ["start: step", f"PLAN: /{PLAN_CHAR}{{1,{LONGEST_PLAN}}}/", quote]

    def text(self) -> str:
        rows: list[tuple[bool, ...]] = [()]
        for row in rows:  # which grows
            rows += self._step(row)
        terminals = [f"{name}: {body}" for body, name in self._terminals.items()]
        return "\n".join([*self._lines, *terminals]) + "\n"

    def _step(self, row: tuple[bool, ...]) -> list[tuple[bool, ...]]:
        """Write the rule of the step after a row; the rows that it makes, unless they are as long as a plan may be."""
        k, ways, rows = len(row), [], []
        for page in (False, True):
            calls = self._calls(row, page)
            if calls:
                after = (*row, page)
                more = f"({_rule('step', after)} | answer_{k})" if k + 1 < self._most else f"answer_{k}"
                ways.append(f'({" | ".join(calls)}) "]\\n" {more}')
                rows += [after] if k + 1 < self._most else []
        self._lines.append(f'{_rule("step", row)}: "Plan: " PLAN "\\n:evidence{k}: = " ({" | ".join(ways)})')
        if k not in self._answered:  # once for each length
            self._answered.add(k)
            before = _any_of(range(k))
            last = f"/({PLAN_CHAR}{before and '|' + before}){{0,{LONGEST_ANSWER}}}:evidence{k}:/"
            self._lines.append(f'answer_{k}: "Answer: " {self._terminal(last)}')
        return rows

    def _calls(self, row: tuple[bool, ...], page: bool) -> list[str]:
        calls = []
        for kind, names in self._kinds[page].items():
            argument = self._argument(kind, row)
            if argument:
                calls.append(f'({literals(names)}) "[" ({argument})')
        return calls

    def _argument(self, kind: str, row: tuple[bool, ...]) -> str:
        """What may stand in the brackets; "" if there can be no such call yet."""
        pages = [n for n, page in enumerate(row) if page]
        values = _any_of(n for n, page in enumerate(row) if not page)
        anything = _any_of(range(len(row)))
        if kind == "asks" and not self._only_asks:
            if not row:
                return ""
            question = f"({ARGUMENT_CHAR}|{NO_REFERENCE}{values and '|' + values}){{1,{LONGEST_ARGUMENT}}}"
            given = _ascending(pages) if pages else anything
            return self._terminal(f"/{question}, given {given}\\?/")
        if kind == "quote":
            return f"QUOTE | {self._terminal(f'/{values}/')}" if values else "QUOTE"
        if kind == "sum":
            return self._terminal(f"/({_SUM}{values and '|' + values}){{1,{LONGEST_SUM}}}/")
        if kind in _TYPED_BY_NAME:
            return self._terminal(f"/({_TYPED_BY_NAME[kind]}{anything and '|' + anything})/")
        return self._terminal(
            f"/({ARGUMENT_CHAR}|{NO_REFERENCE}{anything and '|' + anything}){{1,{LONGEST_ARGUMENT}}}/"
        )

    def _terminal(self, body: str) -> str:
        return self._terminals.setdefault(body, f"T{len(self._terminals)}")


def _rule(name: str, row: tuple[bool, ...]) -> str:
    return "_".join([name, "".join("vp"[page] for page in row)]) if row else name


def _any_of(steps: Iterable[int]) -> str:
    numbers = "|".join(map(str, steps))
    return f":evidence({numbers}):" if numbers else ""


def _ascending(steps: list[int]) -> str:
    """One or more of them, in order, each at most once."""
    ways = [f":evidence{n}:" + "".join(f"( :evidence{m}:)?" for m in steps if m > n) for n in steps]
    return f"({'|'.join(ways)})"


def by_form(tools: Iterable[str | Tool], *, quotes: bool) -> dict[str, list[str]]:
    """Names of tools by what their arguments are; lists are texts of one line here."""
    given = list(tools)
    kinds: dict[str, list[str]] = {}
    for tool, name in zip(given, tool_names(given), strict=True):
        kind: str = "text" if isinstance(tool, str) else tool.form
        if not isinstance(tool, str) and tool.argument_type in TYPED:
            kind = tool.argument_type.__name__
        kinds.setdefault("text" if kind == "quote" and not quotes else kind, []).append(name)
    return kinds


def literals(names: list[str]) -> str:
    """One of them, in Lark and in GBNF."""
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
