"""JSON schemas made narrower, so that whatever is sampled under them ends and reads back."""

from __future__ import annotations

from typing import Any

from halfbyte.prompts.plain_schema import known_format
from halfbyte.prompts.text_shape import has_shape, shaped

Schema = dict[str, Any]

MOST_ITEMS = 16  # of a list whose schema does not say
LARGEST = 10**15
LONGEST_KEY = 40  # of an object whose keys nobody declares
_SAYS = ("type", "anyOf", "oneOf", "allOf", "enum", "const", "properties", "items")


def bounded(schema: Schema, longest: int) -> Schema:
    """The schema with an end to texts (`longest` characters), numbers and lists.

    Objects take what is declared; where nothing is, one pair at most, since no grammar can keep two keys from being the
    same. What a schema leaves open becomes a simple value or a list of them.
    """
    out = {key: value for key, value in schema.items() if key != "description"}
    if not any(key in out for key in _SAYS):
        return _anything(longest)
    for key in ("anyOf", "oneOf", "allOf"):
        if key in out:
            out[key] = [bounded(part, longest) for part in out[key]]
    implied = "object" if "properties" in out else "array" if "items" in out else None
    if implied:
        out.setdefault("type", implied)
    kinds = out.get("type", ())
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    if "object" in kinds:
        out |= _object(out, longest)
    if "array" in kinds:
        out["items"] = bounded(out.get("items", {}), longest)
        out.setdefault("maxItems", max(MOST_ITEMS, out.get("minItems", 0)))
    if "string" in kinds and "enum" not in out and "const" not in out:
        out |= shaped(out, longest) if has_shape(out) else {"maxLength": min(longest, out.get("maxLength", longest))}
        if not known_format(out.get("format")):
            out.pop("format", None)
    if ("integer" in kinds or "number" in kinds) and "enum" not in out and "const" not in out:
        out.setdefault("maximum", LARGEST)
        out.setdefault("minimum", -LARGEST)
        if "number" in kinds:
            out.setdefault("multipleOf", 1e-6)  # six digits after the point
    return out


def _object(schema: Schema, longest: int) -> Schema:
    if schema.get("properties") or schema.get("additionalProperties", "properties" not in schema) is False:
        properties = {name: bounded(part, longest) for name, part in schema.get("properties", {}).items()}
        return {"properties": properties, "additionalProperties": False}
    others = schema.get("additionalProperties", True)
    value = bounded(others if isinstance(others, dict) else {}, longest)
    key = rf"^[^\x00-\x1f]{{0,{min(LONGEST_KEY, longest)}}}$"
    return {"patternProperties": {key: value}, "additionalProperties": False, "maxProperties": 1}


def _anything(longest: int) -> Schema:
    text = {"type": "string", "maxLength": longest}
    simple: list[Schema] = [text, bounded({"type": "number"}, longest), {"type": "boolean"}, {"type": "null"}]
    return {"anyOf": [*simple, {"type": "array", "items": {"anyOf": simple}, "maxItems": MOST_ITEMS}]}
