"""Writes functions as the card does: YAML whose nesting carries meaning, with scalars bare wherever YAML allows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from halfbyte.prompts.function import Function

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def functions_yaml(functions: list[Function]) -> str:
    """The block under `Available functions:`, without a final newline."""
    return "\n".join(line for function in functions for line in _function(function))


def _function(function: Function) -> list[str]:
    properties = function.parameters.get("properties", {})
    lines = [f"{scalar(function.name)}:", f"  description: {scalar(function.description)}"]
    return lines + (["  params:", *_params(properties, 4)] if properties else ["  params: {}"])


def _params(properties: dict[str, Any], indent: int) -> list[str]:
    lines = []
    for name, schema in properties.items():
        inner = schema.get("properties")
        if inner:
            lines += [f"{' ' * indent}{scalar(name)}:", *_params(inner, indent + 2)]
        else:
            lines.append(f"{' ' * indent}{scalar(name)}: {scalar(_described(schema))}")
    return lines


def _described(schema: dict[str, Any]) -> str:
    """What the schema says in words; the values that it allows are added where the words do not name them."""
    words = " ".join(str(schema.get("description", "")).split())
    allowed = [str(value) for value in schema.get("enum", ())]
    missing = [value for value in allowed if value not in words]
    if missing:
        listed = "One of: " + ", ".join(allowed) + "."
        return f"{words} {listed}" if words else listed
    return words or _type_words(schema)


def _type_words(schema: dict[str, Any]) -> str:
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return " or ".join(_type_words(option) for option in options)
    kinds = schema.get("type", "value")
    return kinds if isinstance(kinds, str) else " or ".join(map(str, kinds))


def scalar(text: str) -> str:
    """A text as YAML on one line: bare if it reads back as itself, key or value; else in double quotes."""
    return text if _reads_back(text) else quoted(text)


def _reads_back(text: str) -> bool:
    if not text.isprintable() or text != text.strip():
        return False
    try:
        as_value, as_key = (yaml.load(line, Loader=_LOADER) for line in (f"k: {text}", f"{text[:100]}: 1"))
    except (yaml.YAMLError, ValueError):  # ValueError: what looks like a date and is none
        return False
    return bool(as_value == {"k": text} and (len(text) > 100 or as_key == {text: 1}))


def quoted(text: str) -> str:
    """A text in YAML's double quotes."""
    return '"' + "".join(_character(c) for c in text) + '"'


def _character(c: str) -> str:
    if c in '"\\':
        return "\\" + c
    if c.isprintable():
        return c
    code = ord(c)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
