"""Grammars as rules that can be written as Lark (llguidance's dialect) or GBNF (llama.cpp's)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Rule:
    """A reference to a rule by name."""

    name: str


@dataclass(frozen=True, slots=True)
class Text:
    """A JSON string of so many characters."""

    shortest: int
    longest: int


@dataclass(frozen=True, slots=True)
class Shaped:
    """A JSON string of a pattern or format; `schema` is its JSON schema. GBNF bounds its length alone."""

    schema: str
    length: Text


@dataclass(frozen=True, slots=True)
class Number:
    """A number in one of these forms: see number_ranges."""

    forms: tuple[tuple[str, ...], ...]


Symbol = str | Rule | Text | Shaped | Number  # a str stands for itself
Alternative = list[Symbol]

_FOLDED = r"\x80-\x9F\u2028\u2029\uFEFF\uFFFE\uFFFF"  # in a YAML text not allowed, or a line break
_LARK_TERMINALS = {
    "integer": r"/-?(0|[1-9][0-9]{0,14})/",
    "number": r"/-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?/",
}
_GBNF_TERMINALS = {
    "integer": '"-"? ("0" | [1-9] [0-9]{0,14})',
    "number": '"-"? ("0" | [1-9] [0-9]{0,14}) ("." [0-9]{1,15})?',
}


@dataclass(slots=True)
class Grammar:
    """Rules by name, each a list of alternatives; "start" is where it begins. `integer` and `number` are built in."""

    rules: dict[str, list[Alternative]] = field(default_factory=dict)
    yaml: bool = False  # whether texts keep to the characters that YAML takes as they are

    def add(self, alternatives: list[Alternative], name: str | None = None) -> Rule:
        """Add a rule, under a new name unless one is given."""
        name = name or f"r{len(self.rules)}"
        self.rules[name] = alternatives
        return Rule(name)

    def lark(self) -> str:
        """As Lark."""
        lengths: dict[Text, None] = {}
        shapes: dict[Shaped, str] = {}
        lines = []
        for name, alternatives in self.rules.items():
            written = " | ".join(_lark(alternative, lengths, shapes) for alternative in alternatives)
            lines.append(f"{name}: {written}")
        lines += [f"{name}: %json {shaped.schema}" for shaped, name in shapes.items()]
        lines += [f"{name.upper()}: {pattern}" for name, pattern in _LARK_TERMINALS.items()]
        character = rf'([^"\\\x00-\x1F\x7F{_FOLDED if self.yaml else ""}]|\\["\\\/bfnrt])'
        lines += [f'TEXT_{t.shortest}_{t.longest}: /"{character}{{{t.shortest},{t.longest}}}"/' for t in lengths]
        return "\n".join(lines) + "\n"

    def gbnf(self) -> str:
        """As GBNF."""
        lengths: dict[Text, None] = {}
        lines = []
        for name, alternatives in self.rules.items():
            written = " | ".join(_gbnf(alternative, lengths) for alternative in alternatives)
            lines.append(f"{'root' if name == 'start' else name} ::= {written}")
        lines += [f"{name} ::= {pattern}" for name, pattern in _GBNF_TERMINALS.items()]
        character = rf'([^"\\\x00-\x1F\x7F{_FOLDED if self.yaml else ""}] | "\\" ["\\/bfnrt])'
        for t in lengths:
            lines.append(f'text-{t.shortest}-{t.longest} ::= "\\"" {character}{{{t.shortest},{t.longest}}} "\\""')
        return "\n".join(lines) + "\n"


def _lark(alternative: Alternative, lengths: dict[Text, None], shapes: dict[Shaped, str]) -> str:
    parts = []
    for symbol in _joined(alternative):
        if isinstance(symbol, Text):
            lengths[symbol] = None
            parts.append(f"TEXT_{symbol.shortest}_{symbol.longest}")
        elif isinstance(symbol, Shaped):
            parts.append(shapes.setdefault(symbol, f"shaped{len(shapes)}"))
        elif isinstance(symbol, Number):
            parts.append("/" + "|".join("".join(form).replace(".", r"\.") for form in symbol.forms) + "/")
        elif isinstance(symbol, Rule):
            parts.append(symbol.name.upper() if symbol.name in _LARK_TERMINALS else symbol.name)
        else:
            parts.append(json.dumps(symbol, ensure_ascii=False))
    return " ".join(parts) or '""'


def _gbnf(alternative: Alternative, lengths: dict[Text, None]) -> str:
    parts = []
    for symbol in (s.length if isinstance(s, Shaped) else s for s in _joined(alternative)):
        if isinstance(symbol, Text):
            lengths[symbol] = None
            parts.append(f"text-{symbol.shortest}-{symbol.longest}")
        elif isinstance(symbol, Number):
            forms = (" ".join(d if d[0] == "[" else f'"{d}"' for d in form) for form in symbol.forms)
            parts.append(f"({' | '.join(forms)})")
        else:
            parts.append(symbol.name if isinstance(symbol, Rule) else json.dumps(symbol))
    return " ".join(parts) or '""'


def _joined(alternative: Alternative) -> Alternative:
    """Neighbouring literals as one."""
    parts: Alternative = []
    for symbol in alternative:
        if isinstance(symbol, str) and parts and isinstance(parts[-1], str):
            parts[-1] += symbol
        elif symbol != "":
            parts.append(symbol)
    return parts
