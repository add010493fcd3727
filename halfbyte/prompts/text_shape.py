"""Texts that a JSON schema gives a shape: a `pattern` to be found in them, or a `format` such as "date"."""

from __future__ import annotations

import ipaddress
import re
import uuid
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Any

from halfbyte.prompts.plain_schema import known_format

if TYPE_CHECKING:
    from collections.abc import Callable

Schema = dict[str, Any]

_ROOM = 64  # characters that every format fits in
_READERS: dict[str, Callable[[str], object]] = {
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "date-time": datetime.fromisoformat,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "uuid": uuid.UUID,
}


def has_shape(schema: Schema) -> bool:
    """Whether a text's schema says more than its length."""
    return "pattern" in schema or known_format(schema.get("format"))


def shaped(schema: Schema, longest: int) -> Schema:
    """The part of a text's schema that a grammar is made of, with an end to the text."""
    kept: Schema = {key: schema[key] for key in ("pattern", "minLength") if key in schema}
    if known_format(schema.get("format")):
        kept["format"] = schema["format"]
    room = max(longest, _ROOM)
    return {"type": "string", **kept, "maxLength": min(room, schema.get("maxLength", room))}


def misshapen(value: str, schema: Schema) -> str | None:
    """What of its shape a text lacks, None for nothing: as far as Python reads the pattern, and can tell the format."""
    pattern, form = schema.get("pattern"), schema.get("format")
    if pattern is not None and not _matches(pattern, value):
        return f"does not match {pattern!r}"
    if form in _READERS:
        try:
            _READERS[form](value)
        except ValueError:
            return f"is no {form}"
    return None


def _matches(pattern: str, value: str) -> bool:
    try:
        return re.search(pattern, value) is not None
    except re.error:  # one of another dialect, such as \\p{L}
        return True
