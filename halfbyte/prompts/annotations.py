"""JSON schemas from Python: annotations, signatures, docstrings."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import inspect
import re
import types
import typing
from typing import Any

from halfbyte.errors import PromptError

_SIMPLE: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    None: {"type": "null"},
    type(None): {"type": "null"},
    Any: {},
    object: {},
    inspect.Parameter.empty: {},
}
_ARRAYS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_SECTION = re.compile(
    r"(?:args|arguments|parameters|params|returns?|raises|yields?|examples?|notes?):\s*$", re.IGNORECASE
)
_NOTE = re.compile(r"(?::param\s{1,8})?\*{0,2}(\w{1,100})(?:\s{0,8}\([^)]{0,200}\))?\s{0,8}:\s{0,8}(.*)")


def described(docstring: str) -> tuple[str, dict[str, str]]:
    """A docstring's first paragraph, and what it says of parameters: lines `name: text`, also `:param name: text`."""
    lines = docstring.strip().splitlines()
    end = next((i for i, line in enumerate(lines) if not line.strip() or (i and _NOTE.match(line))), len(lines))
    notes: dict[str, str] = {}
    name = ""
    for line in lines[end:]:
        body = line.strip()
        found = None if _SECTION.match(body) else _NOTE.match(body)
        if found:
            name = found[1]
            notes.setdefault(name, found[2].strip())
        elif body and name and line[:1].isspace():  # goes on
            notes[name] += f" {body}"
        else:
            name = ""
    return " ".join(lines[:end]), notes


def callable_schema(function: Any, notes: dict[str, str]) -> dict[str, Any]:
    """The schema of a callable's parameters. Raises PromptError for those that cannot be given by name."""
    name = getattr(function, "__name__", type(function).__name__)
    try:
        signature = inspect.signature(function)
        called = function if inspect.isroutine(function) else type(function).__call__
        hints = typing.get_type_hints(called, include_extras=True)
    except (NameError, TypeError, ValueError) as error:
        raise PromptError(f"{name}: its signature cannot be read ({error})") from error
    properties: dict[str, Any] = {}
    required = []
    for parameter in signature.parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise PromptError(f"{name}: parameter {parameter} cannot be given by name")
        schema = annotation_schema(hints.get(parameter.name, Any), f"{name}: {parameter.name}")
        if notes.get(parameter.name):
            schema["description"] = notes[parameter.name]
        properties[parameter.name] = schema
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    return _object(properties, required)


def annotation_schema(annotation: Any, where: str) -> dict[str, Any]:
    """The schema of a type. Raises PromptError, naming `where`, for a type that JSON cannot express."""
    if isinstance(annotation, collections.abc.Hashable) and annotation in _SIMPLE:
        return dict(_SIMPLE[annotation])
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        text = next((note for note in arguments[1:] if isinstance(note, str)), None)
        return annotation_schema(arguments[0], where) | ({"description": text} if text else {})
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [annotation_schema(part, where) for part in arguments]}
    return _container_schema(origin or annotation, arguments, where) or _class_schema(annotation, where)


def _container_schema(base: Any, arguments: tuple[Any, ...], where: str) -> dict[str, Any] | None:
    if base in _ARRAYS:
        item = next((part for part in arguments if part is not ...), Any)
        return {"type": "array", "items": annotation_schema(item, where)}
    if base in _MAPPINGS:
        return {"type": "object", "additionalProperties": annotation_schema(arguments[1], where) if arguments else True}
    return None


def _class_schema(annotation: Any, where: str) -> dict[str, Any]:
    from halfbyte.prompts.inline_refs import inline  # noqa: PLC0415  only where a pydantic model is nested

    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return {"enum": [member.value for member in annotation]}
    if hasattr(annotation, "model_json_schema"):
        return inline(annotation.model_json_schema(), where)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        fields = dataclasses.fields(annotation)
        needed = [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]
        return _fields(annotation, [f.name for f in fields], needed, where)
    if typing.is_typeddict(annotation):
        return _fields(annotation, list(annotation.__annotations__), sorted(annotation.__required_keys__), where)
    raise PromptError(f"{where}: {annotation!r} cannot be expressed in JSON")


def _fields(annotation: Any, names: list[str], required: list[str], where: str) -> dict[str, Any]:
    hints = typing.get_type_hints(annotation, include_extras=True)
    return _object({name: annotation_schema(hints[name], f"{where}.{name}") for name in names}, required)


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
