"""Holds the parameters of a call against their JSON schema, and gives them as Python values.

Checked: type, enum, const, anyOf and oneOf (one at least fits), properties, required, additionalProperties, items,
bounds of numbers, lengths, patterns and formats. YAML's words without quotes are read as the schema wants them: where
it wants a text, `no` is the text "no"; where it wants a boolean, false. Where it says nothing, they are JSON's words
and numbers, and else text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from halfbyte.errors import PromptError
from halfbyte.prompts.text_shape import misshapen

if TYPE_CHECKING:
    from halfbyte.prompts.position import Text
    from halfbyte.prompts.tree import Node

Schema = dict[str, Any]

_INTEGER = re.compile(r"[+-]?[0-9]{1,4000}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,300}(?:\.[0-9]{0,300})?|\.[0-9]{1,300})(?:[eE][+-]?[0-9]{1,2})?")
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NULLS = ("null", "~", "")
_WRONG = object()


def read_value(node: Node, schema: Schema, text: Text, path: str) -> Any:
    """The value of a node. Raises PromptError, naming path and place, if it does not fit."""
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return _any_of(node, _strings_last(options, node), text, path)
    if "enum" in schema or "const" in schema:
        return _one_of(node, schema["enum"] if "enum" in schema else [schema["const"]], text, path)
    kinds = schema.get("type", _implied(schema))
    listed = [{"type": kind} for kind in ([kinds] if isinstance(kinds, str) else kinds or [""])]
    for kind in (option["type"] for option in _strings_last(listed, node)):
        value = _typed(node, kind, schema, text, path)
        if value is not _WRONG:
            _check_bounds(value, schema, node, text, path)
            return value
    wanted = kinds if isinstance(kinds, str) else " or ".join(kinds)
    raise text.error(f"{path} must be of type {wanted}, not {_shown(node)}", node.start)


def _strings_last(options: list[Schema], node: Node) -> list[Schema]:
    """The options in the order in which they are tried.

    YAML without quotes: `null` and `5` are no strings where they may be something else, but `no` and `off` are.
    """
    if not node.plain or str(node.value).casefold() in _BOOLEANS.keys() - {"true", "false"}:
        return options
    return sorted(options, key=lambda option: option.get("type") == "string")


def _implied(schema: Schema) -> str:
    return "object" if "properties" in schema else "array" if "items" in schema else ""


def _any_of(node: Node, options: list[Schema], text: Text, path: str) -> Any:
    errors = []
    for option in options:
        try:
            return read_value(node, option, text, path)
        except PromptError as error:
            errors.append(error)
    deepest = max(errors, key=lambda e: (e.line or 0, e.column or 0))
    if len(options) == 1 or (deepest.line, deepest.column) > (
        (place := text.span(node.start, node.end)).line,
        place.column,
    ):
        raise deepest
    raise text.error(f"{path} is none of what it may be: {_shown(node)}", node.start)


def _one_of(node: Node, allowed: list[Any], text: Text, path: str) -> Any:
    for value in allowed:
        same = str(value) == node.value if node.plain and isinstance(value, str) else _equal(_free(node), value)
        if same:
            return value
    raise text.error(f"{path} must be one of {', '.join(map(repr, allowed))}, not {_shown(node)}", node.start)


def _equal(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b)


def _typed(node: Node, kind: str, schema: Schema, text: Text, path: str) -> Any:
    """The value as this type, or _WRONG."""
    if kind == "":
        return _free(node)
    if kind == "object":
        return _object(node, schema, text, path) if node.kind == "map" else _WRONG
    if kind == "array":
        return _array(node, schema, text, path) if node.kind == "list" else _WRONG
    if node.kind != "scalar":
        return _WRONG
    return _plain(node.value, kind) if node.plain else _exact(node.value, kind)


def _exact(value: Any, kind: str) -> Any:
    if kind == "number" and type(value) is int:
        return value
    wanted = {"string": str, "integer": int, "number": float, "boolean": bool, "null": type(None)}[kind]
    return value if type(value) is wanted else _WRONG


def _plain(word: str, kind: str) -> Any:
    if kind == "string":
        return word
    if kind == "boolean":
        return _BOOLEANS.get(word.casefold(), _WRONG)
    if kind == "null":
        return None if word.casefold() in _NULLS else _WRONG
    if _INTEGER.fullmatch(word):
        return int(word)
    return float(word) if kind == "number" and _NUMBER.fullmatch(word) else _WRONG


def _free(node: Node) -> Any:
    """A value that no schema describes."""
    if node.kind == "map":
        return {str(key.value): _free(value) for key, value in node.pairs}
    if node.kind == "list":
        return [_free(item) for item in node.items]
    if not node.plain:
        return node.value
    if node.value in ("true", "false"):
        return node.value == "true"
    if node.value in _NULLS:
        return None
    number = _plain(node.value, "number")
    return node.value if number is _WRONG else number


def _object(node: Node, schema: Schema, text: Text, path: str) -> dict[str, Any]:
    properties: dict[str, Schema] = schema.get("properties", {})
    others = schema.get("additionalProperties", "properties" not in schema)
    found = {}
    for key, value in node.pairs:
        name = str(key.value)
        if name in properties:
            found[name] = read_value(value, properties[name], text, f"{path}.{name}")
        elif others is False:
            known = ", ".join(properties) or "none"
            raise text.error(f"{path} has no parameter {name!r}; there are: {known}", key.start)
        else:
            found[name] = read_value(value, others if isinstance(others, dict) else {}, text, f"{path}.{name}")
    missing = [name for name in schema.get("required", ()) if name not in found]
    if missing:
        raise text.error(f"{path} lacks {', '.join(map(repr, missing))}", node.start)
    return found


def _array(node: Node, schema: Schema, text: Text, path: str) -> list[Any]:
    items = schema.get("items", {})
    return [read_value(item, items, text, f"{path}[{i}]") for i, item in enumerate(node.items)]


def _check_bounds(value: Any, schema: Schema, node: Node, text: Text, path: str) -> None:
    length = len(value) if isinstance(value, str | list) else None
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    kind = "Items" if isinstance(value, list) else "Length"
    wrong = (
        (number is not None and number < schema.get("minimum", number))
        or (number is not None and number > schema.get("maximum", number))
        or (number is not None and "exclusiveMinimum" in schema and number <= schema["exclusiveMinimum"])
        or (number is not None and "exclusiveMaximum" in schema and number >= schema["exclusiveMaximum"])
        or (length is not None and not schema.get(f"min{kind}", 0) <= length <= schema.get(f"max{kind}", length))
    )
    if wrong:
        raise text.error(f"{path} is {_shown(node)}, out of its bounds", node.start)
    problem = misshapen(value, schema) if isinstance(value, str) else None
    if problem:
        raise text.error(f"{path} is {_shown(node)}, which {problem}", node.start)


def _shown(node: Node) -> str:
    return f"a {node.kind}" if node.kind != "scalar" else repr(node.value)[:80]
