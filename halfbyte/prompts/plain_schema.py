"""JSON schemas as people write them, made into what grammars are built from.

Many leave out what kind of value they describe, as TGI's own examples do. To JSON Schema `{"properties": ...}` is also
true of every number and text; who writes it means an object. The narrower schema's values are all values of the wider
one. A `format` that no grammar knows (pydantic's "password", OpenAPI's "binary") is a remark and no rule.
"""

from __future__ import annotations

from typing import Any

FORMATS = frozenset(
    {"date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
)  # that llguidance knows
_OBJECT = ("properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties")
_ARRAY = ("items", "prefixItems", "minItems", "maxItems", "uniqueItems")
_SAYS = ("type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf", "not", "if")
_ONE = ("items", "additionalProperties")
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")


def implied_type(schema: dict[str, Any]) -> str | None:
    """The kind of value that a schema speaks of without naming it."""
    if any(key in schema for key in _SAYS):
        return None
    if any(key in schema for key in _OBJECT):
        return "object"
    return "array" if any(key in schema for key in _ARRAY) else None


def plain_schema(schema: Any) -> Any:
    """The schema with each implied type written out, and without formats that are not known."""
    if not isinstance(schema, dict):
        return schema
    kind = implied_type(schema)
    out = schema if kind is None else {"type": kind, **schema}
    return {key: _parts(key, value) for key, value in out.items() if key != "format" or known_format(value)}


def known_format(name: Any) -> bool:
    """Whether texts of this format can be told from others."""
    return isinstance(name, str) and name in FORMATS


def _parts(key: str, value: Any) -> Any:
    if key in _ONE:
        return plain_schema(value)
    if key in _BY_NAME and isinstance(value, dict):
        return {name: plain_schema(part) for name, part in value.items()}
    if key in _LISTED and isinstance(value, list):
        return [plain_schema(part) for part in value]
    return value
