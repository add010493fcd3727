"""The grammar of valid calls: nothing else can be written under it.

JSON calls have the card's layout (two spaces a level), YAML calls put every text in double quotes. Parameters come in
the order of their declaration. Texts, numbers, lists and free objects are bounded, so that every answer ends.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from halfbyte.errors import PromptError
from halfbyte.prompts.bounded_schema import LONGEST_KEY, MOST_ITEMS
from halfbyte.prompts.function_yaml import scalar
from halfbyte.prompts.grammar import Alternative, Grammar, Number, Rule, Shaped, Symbol, Text
from halfbyte.prompts.number_ranges import BOUNDS, number_forms
from halfbyte.prompts.text_shape import has_shape, shaped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from halfbyte.prompts.function import Function

Schema = dict[str, Any]
DEEPEST_FREE = 2  # levels of values that no schema describes


def function_grammar(
    functions: Sequence[Function], form: str, *, allow_none: bool, max_calls: int, max_string: int
) -> Grammar:
    """The grammar of one to `max_calls` calls, as JSON or YAML."""
    return _Builder(form, max_string).build(functions, allow_none, max_calls)


class _Builder:
    def __init__(self, form: str, max_string: int) -> None:
        self.grammar = Grammar(yaml=form == "yaml")
        self.yaml = form == "yaml"
        self.max_string = max_string
        self.free: list[Rule] = []

    def build(self, functions: Sequence[Function], allow_none: bool, max_calls: int) -> Grammar:
        self.grammar.rules["start"] = []  # the first rule
        many = max_calls > 1 and not self.yaml
        level = 1 if many else 0
        call = self.grammar.add([self._call(function, level) for function in functions])
        none: Symbol = "function: null\nparams: {}" if self.yaml else '{\n  "function": null,\n  "params": {}\n}'
        start: list[Alternative] = [[none]] if allow_none else []
        if many:
            start.append(["[\n  ", *self._repeat([call], ",\n  ", 1, max_calls), "\n]"])
        else:
            start.append(self._repeat([call], "\n", 1, max_calls))
        self.grammar.rules["start"] = start
        return self.grammar

    def _call(self, function: Function, level: int) -> Alternative:
        if self.yaml:
            return [
                f"function: {scalar(function.name)}\nparams:",
                self._block(function.parameters, 1),
            ]
        indent = "\n" + "  " * (level + 1)
        name = json.dumps(function.name, ensure_ascii=False)
        params = self._object(function.parameters, level + 1)
        return ["{" + indent, f'"function": {name},', indent, '"params": ', params, "\n" + "  " * level + "}"]

    def _value(self, schema: Schema, level: int) -> Symbol:
        """A value on the line of its key; in YAML too this is JSON."""
        options = schema.get("anyOf") or schema.get("oneOf")
        if options:
            return self.grammar.add([[self._value(option, level)] for option in options])
        if "enum" in schema or "const" in schema:
            allowed = schema["enum"] if "enum" in schema else [schema["const"]]
            return self.grammar.add([[json.dumps(value, ensure_ascii=False)] for value in allowed])
        kinds = schema.get("type", "object" if "properties" in schema else "array" if "items" in schema else "")
        if not isinstance(kinds, str):
            return self.grammar.add([[self._value({**schema, "type": kind}, level)] for kind in kinds])
        return self._typed(kinds, schema, level)

    def _typed(self, kind: str, schema: Schema, level: int) -> Symbol:
        if kind == "string":
            length = Text(schema.get("minLength", 0), min(self.max_string, schema.get("maxLength", self.max_string)))
            return Shaped(json.dumps(shaped(schema, self.max_string)), length) if has_shape(schema) else length
        if kind in ("integer", "number"):
            bounded = any(name in schema for name in BOUNDS)
            return Number(tuple(map(tuple, number_forms(kind, schema)))) if bounded else Rule(kind)
        if kind in ("boolean", "null"):
            return self.grammar.add([["true"], ["false"]] if kind == "boolean" else [["null"]])
        builders = {"array": self._array, "object": self._object, "": lambda *_: self._free(DEEPEST_FREE)}
        if kind not in builders:
            raise PromptError(f"there is no JSON type {kind!r}")
        return builders[kind](schema, level)

    def _array(self, schema: Schema, level: int) -> Rule:
        low = schema.get("minItems", 0)
        item = self._value(schema.get("items", {}), level)
        some = ["[", *self._repeat([item], ", ", max(low, 1), schema.get("maxItems", max(low, MOST_ITEMS))), "]"]
        return self.grammar.add([some] if low else [["[]"], some])

    def _object(self, schema: Schema, level: int) -> Symbol:
        properties = schema.get("properties", {})
        if not properties:
            others = schema.get("additionalProperties", "properties" not in schema)
            if others is False:
                return "{}"
            return self._open_object(self._value(others, level) if isinstance(others, dict) else self._free(1))
        indent, outer = ("", "") if self.yaml else ("\n" + "  " * (level + 1), "\n" + "  " * level)
        gap = ", " if self.yaml else "," + indent
        pairs: list[tuple[Alternative, bool]] = [
            (
                [json.dumps(name, ensure_ascii=False) + ": ", self._value(part, level + 1)],
                name in schema.get("required", ()),
            )
            for name, part in properties.items()
        ]
        return self.grammar.add([["{", self._members(pairs, indent, gap, "", outer), "}"]])

    def _block(self, schema: Schema, level: int) -> Symbol:
        """YAML's nested form of an object, from behind its colon."""
        properties = schema.get("properties", {})
        if not properties:
            return self.grammar.add([[" ", self._object(schema, level)]])
        pairs: list[tuple[Alternative, bool]] = []
        for name, part in properties.items():
            inner = part.get("properties")
            value: Alternative = [self._block(part, level + 1)] if inner else [" ", self._value(part, level)]
            pairs.append(([scalar(name) + ":", *value], name in schema.get("required", ())))
        indent = "\n" + "  " * level
        return self._members(pairs, indent, indent, " {}", "")

    def _members(
        self, pairs: list[tuple[Alternative, bool]], before: str, between: str, empty: str, after: str
    ) -> Rule:
        """Pairs in their order, of which those that are not required may be left out."""
        some, none = self.grammar.add([[after]]), self.grammar.add([[empty]])
        for pair, required in reversed(pairs):
            taken_later: Alternative = [between, *pair, some]
            taken_first: Alternative = [before, *pair, some]
            some_next = self.grammar.add([taken_later] if required else [taken_later, [some]])
            none = self.grammar.add([taken_first] if required else [taken_first, [none]])
            some = some_next
        return none

    def _repeat(self, item: Alternative, gap: str, low: int, high: int) -> Alternative:
        """`low` to `high` items."""
        if not 1 <= low <= high <= 1000:
            raise PromptError(f"a list of {low} to {high} items cannot be asked for")
        rest: Alternative = []
        for _ in range(high - low):
            rest = [self.grammar.add([[], [gap, *item, *rest]])]
        for _ in range(low - 1):
            rest = [gap, *item, *rest]
        return [*item, *rest]

    def _free(self, depth: int) -> Rule:
        """Any JSON value, to a depth."""
        while len(self.free) <= depth:
            simple: list[Alternative] = [[Text(0, self.max_string)], [Rule("number")], ["true"], ["false"], ["null"]]
            below = len(self.free) - 1
            if below >= 0:
                items = self._repeat([self.free[below]], ", ", 1, MOST_ITEMS)
                simple += [["[]"], ["[", *items, "]"], [self._open_object(self.free[below])]]
            self.free.append(self.grammar.add(simple))
        return self.free[depth]

    def _open_object(self, value: Symbol) -> Rule:
        """An object whose keys nobody declares: none or one, since no grammar can keep two from being the same."""
        return self.grammar.add([["{}"], ["{", Text(0, min(LONGEST_KEY, self.max_string)), ": ", value, "}"]])
