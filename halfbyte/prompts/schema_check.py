"""Whether the keywords of a JSON schema have values that they may have: schemas come from strangers, too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from halfbyte.errors import PromptError

TYPES = ("string", "integer", "number", "boolean", "null", "array", "object")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")


def check_keywords(schema: Mapping[str, Any], name: str) -> None:
    """Check one schema, not those within it. Raises PromptError that names the function and the keyword."""
    for key, value in schema.items():
        due = _due(key, value)
        if due:
            raise PromptError(f"{name}: {key} must be {due}, not {value!r:.60}")


def _due(key: str, value: Any) -> str | None:
    """What a keyword's value must be, if it is not."""
    checks = {
        "type": (_is_type, f"one of {', '.join(TYPES)}, or a list of them"),
        "enum": (lambda v: isinstance(v, list | tuple) and bool(v), "a list of values"),
        "pattern": (lambda v: isinstance(v, str), "a regular expression"),
        "required": (_are_names, "a list of names"),
        **dict.fromkeys(_NUMBERS, (_is_number, "a number")),
        **dict.fromkeys(_COUNTS, (_is_count, "a whole number from 0")),
    }
    if key not in checks:
        return None
    fits, due = checks[key]
    return None if fits(value) else due


def _is_type(value: Any) -> bool:
    kinds = [value] if isinstance(value, str) else value
    return isinstance(kinds, list | tuple) and bool(kinds) and all(kind in TYPES for kind in kinds)


def _are_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
