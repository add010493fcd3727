"""JSON schemas without references: each `$ref` replaced by what it refers to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from halfbyte.errors import PromptError
from halfbyte.prompts.schema_check import check_keywords

if TYPE_CHECKING:
    from collections.abc import Mapping

LARGEST = 10_000  # schemas in one, after references are replaced
_DROPPED = ("$defs", "definitions", "$schema", "$id", "title", "default", "examples")


def inline(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A copy that stands alone; titles and defaults are left out.

    Raises PromptError for what is no schema, refers to itself or elsewhere, or is too large.
    """
    return _Inliner(schema, name).schema(schema, ())


class _Inliner:
    def __init__(self, root: Mapping[str, Any], name: str) -> None:
        self.root = root
        self.name = name
        self.count = 0

    def schema(self, schema: Any, above: tuple[str, ...]) -> dict[str, Any]:
        """One schema; `above` are the references that led to it."""
        self.count += 1
        if self.count > LARGEST or len(above) > 60:
            raise PromptError(f"{self.name}: the schema has more than {LARGEST} parts, or refers to itself")
        if schema is True:
            return {}
        if not hasattr(schema, "items"):
            raise PromptError(f"{self.name}: {schema!r:.80} is no JSON schema")
        if "$ref" in schema:
            reference = schema["$ref"]
            if reference in above:
                raise PromptError(f"{self.name}: the schema refers to itself ({reference})")
            rest = {k: v for k, v in schema.items() if k in ("description",)}
            return {**self.schema(self._target(reference), (*above, reference)), **rest}
        check_keywords(schema, self.name)
        found = {key: self._part(key, value, above) for key, value in schema.items() if key not in _DROPPED}
        return self._merged(found.pop("allOf"), found) if "allOf" in found else found

    def _merged(self, parts: list[dict[str, Any]], rest: dict[str, Any]) -> dict[str, Any]:
        """What all parts of an `allOf` say, as one schema."""
        merged: dict[str, Any] = {}
        for part in (*parts, rest):
            for key, value in part.items():
                if key == "properties":
                    merged[key] = {**merged.get(key, {}), **value}
                elif key == "required":
                    merged[key] = list(dict.fromkeys([*merged.get(key, ()), *value]))
                elif key in merged and merged[key] != value and key != "description":
                    raise PromptError(f"{self.name}: the parts of allOf say two things of {key}")
                else:
                    merged[key] = value
        return merged

    def _part(self, key: str, value: Any, above: tuple[str, ...]) -> Any:
        below = (*above, "")  # counts the depth
        if key == "properties":
            if not hasattr(value, "items"):
                raise PromptError(f"{self.name}: properties must be an object")
            return {str(name): self.schema(part, below) for name, part in value.items()}
        if key == "items" or (key == "additionalProperties" and not isinstance(value, bool)):
            return self.schema(value, below)
        if key in ("anyOf", "oneOf", "allOf"):
            if not isinstance(value, list) or not value:
                raise PromptError(f"{self.name}: {key} must be a list of schemas")
            return [self.schema(part, below) for part in value]
        return value

    def _target(self, reference: Any) -> Any:
        found: Any = self.root
        if not isinstance(reference, str) or not reference.startswith("#/"):
            raise PromptError(f"{self.name}: {reference!r:.80} refers to another document")
        for part in reference[2:].split("/"):
            step = part.replace("~1", "/").replace("~0", "~")
            if not hasattr(found, "items") or step not in found:
                raise PromptError(f"{self.name}: {reference!r:.80} refers to nothing")
            found = found[step]
        return found
