"""A function that a model may call: its name, what it does, and a JSON schema of its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from halfbyte.errors import PromptError
from halfbyte.prompts.annotations import callable_schema, described
from halfbyte.prompts.inline_refs import inline


@dataclass(frozen=True, slots=True)
class Function:
    """`parameters` is a JSON schema of type object, without references."""

    name: str
    description: str
    parameters: dict[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip() or not self.name.isprintable():
            raise PromptError(f"{self.name!r:.80} is no name for a function")
        if not isinstance(self.parameters, dict) or self.parameters.get("type") != "object":
            raise PromptError(f"{self.name}: the parameters' schema must be of type object")

    @classmethod
    def of(cls, declared: Any) -> Function:
        """A Function from whatever declares one.

        declared: a Python callable (signature and docstring), a pydantic model (its fields are the parameters), an
        OpenAI tool, or a JSON schema with a "name" or "title" and "parameters" or "properties". Raises PromptError for
        what cannot be expressed.
        """
        if isinstance(declared, Function):
            return declared
        if isinstance(declared, Mapping):
            return _from_mapping(declared)
        if hasattr(declared, "model_json_schema"):
            schema = declared.model_json_schema()
            return _made(declared.__name__, schema.get("description", ""), schema)
        if inspect.isfunction(declared) or inspect.ismethod(declared) or callable(declared):
            return _from_callable(declared)
        raise PromptError(f"a function cannot be made from a {type(declared).__name__}")


def _from_callable(function: Callable[..., Any]) -> Function:
    name = getattr(function, "__name__", type(function).__name__)
    if name == "<lambda>":
        raise PromptError("a lambda has no name to call it by")
    summary, notes = described(inspect.getdoc(function) or "")
    return _made(name, summary, callable_schema(function, notes))


def _from_mapping(declared: Mapping[str, Any]) -> Function:
    inner = declared.get("function") if declared.get("type") == "function" else None
    source = inner if isinstance(inner, Mapping) else declared
    name = source.get("name", source.get("title"))
    parameters = source.get("parameters")
    if parameters is None:
        parameters = {k: v for k, v in source.items() if k != "name"} if "properties" in source else {}
    if not isinstance(name, str) or not isinstance(parameters, Mapping):
        raise PromptError(
            'a function needs a "name" and "parameters", a JSON schema of type object; '
            f"found {', '.join(map(str, declared)) or 'nothing'}"
        )
    return _made(name, source.get("description", ""), parameters)


def _made(name: str, description: Any, schema: Mapping[str, Any]) -> Function:
    if not isinstance(description, str):
        raise PromptError(f"{name}: the description must be a text, not a {type(description).__name__}")
    parameters = inline(schema, name)
    parameters = {"type": "object", "properties": {}, **parameters}
    parameters.pop("description", None)
    return Function(name, " ".join(description.split()), parameters)
