"""Function calling in the airoboros form: the card's prompt, its answers read and checked, and grammars for them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from halfbyte.errors import PromptError
from halfbyte.prompts.bounded_schema import bounded
from halfbyte.prompts.function import Function
from halfbyte.prompts.function_calls import Call, read_calls
from halfbyte.prompts.function_grammar import function_grammar
from halfbyte.prompts.function_yaml import functions_yaml, quoted, scalar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from halfbyte.prompts.grammar import Grammar

__all__ = ["Call", "Form", "Function", "FunctionPrompt", "from_openai_tools", "to_openai_tool_calls"]

Form = Literal["json", "yaml"]

_ROLE = (
    "As an AI assistant, please select the most suitable function and parameters from the list of available functions "
    "below, based on the user's input. Provide your response in {form} format."
)


@dataclass(frozen=True, slots=True)
class FunctionPrompt:
    """Functions that a model may call, and the form of its answer.

    functions: Python callables, pydantic models, OpenAI tools, JSON schemas or Function (see Function.of). allow_none:
    whether grammars leave the way out that no function suits. max_calls: most calls of an answer under a grammar.
    max_string: most characters of a text under a grammar.
    """

    functions: Sequence[Any]
    form: Form = "json"
    allow_none: bool = True
    max_calls: int = 1
    max_string: int = 256

    def __post_init__(self) -> None:
        try:
            found = tuple(Function.of(declared) for declared in self.functions)
        except RecursionError:
            raise PromptError("a parameter's type refers to itself") from None
        names = [function.name for function in found]
        twice = next((name for name in names if names.count(name) > 1), None)
        if not found or twice is not None:
            raise PromptError("there are no functions" if twice is None else f"there are two functions {twice!r}")
        if self.form not in ("json", "yaml"):
            raise PromptError(f"the form is {self.form!r}; it must be 'json' or 'yaml'")
        if self.max_calls < 1 or self.max_string < 1:
            raise PromptError("max_calls and max_string must be at least 1")
        object.__setattr__(self, "functions", found)

    @property
    def by_name(self) -> Mapping[str, Function]:
        """The functions by their names."""
        return MappingProxyType({function.name: function for function in self.functions})

    def render(self, request: str) -> str:
        """The card's prompt for a user's request."""
        if not request.strip():
            raise PromptError("the request is empty")
        role = _ROLE.format(form=self.form.upper())
        return f"{role}\n\nInput: {request}\n\nAvailable functions:\n{functions_yaml(list(self.functions))}"

    def parse(self, answer: str) -> tuple[Call, ...]:
        """The calls of an answer, checked; () where it says that no function suits.

        Reads JSON and YAML, fenced or bare, with prose around. Raises PromptError at the place of what is wrong: an
        unknown function, an unknown or missing parameter, a wrong type, a key twice, no call at all.
        """
        return read_calls(answer, self.by_name, self.form)

    def write(self, calls: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
        """Calls, as (name, params), in the form of a good answer; none: that no function suits."""
        objects: list[dict[str, Any]] = [{"function": name, "params": dict(params)} for name, params in calls]
        objects = objects or [{"function": None, "params": {}}]
        if self.form == "json":
            return json.dumps(objects if len(objects) > 1 else objects[0], indent=2, ensure_ascii=False)
        return "\n".join(_yaml(call, 0).lstrip("\n") for call in objects)

    def json_schema(self) -> dict[str, Any]:
        """The JSON schema of an answer in JSON, for whatever constrains by one.

        Texts and lists without bounds get some, so that every answer ends; "x-guidance" tells llguidance the spacing.
        """
        calls = [_call_schema({"const": f.name}, bounded(f.parameters, self.max_string)) for f in self.functions]
        empty = {"type": "object", "properties": {}, "additionalProperties": False}
        none = [_call_schema({"const": None}, empty)] if self.allow_none else []
        schema: dict[str, Any] = {"anyOf": calls + none}
        if self.max_calls > 1:
            schema = {
                "anyOf": [
                    {"type": "array", "items": {"anyOf": calls}, "minItems": 1, "maxItems": self.max_calls},
                    *none,
                ]
            }
        spacing = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
        return {"x-guidance": spacing, **schema}

    def grammar(self) -> Grammar:
        """The grammar of valid answers in this form; `.lark()` and `.gbnf()` write it."""
        return function_grammar(
            self.functions, self.form, allow_none=self.allow_none, max_calls=self.max_calls, max_string=self.max_string
        )


def from_openai_tools(
    tools: Sequence[Mapping[str, Any]], tool_choice: Any = "auto", *, form: Form = "json", max_calls: int = 1
) -> FunctionPrompt | None:
    """The prompt for a request's `tools` and `tool_choice`; None where the choice is "none".

    "auto" lets the model say that no function suits, "required" does not, and a named function leaves only that one.
    Raises PromptError for tools or a choice that are not OpenAI's.
    """
    if tool_choice == "none":
        return None
    functions = [Function.of(tool) for tool in tools]
    named = tool_choice.get("function", {}).get("name") if isinstance(tool_choice, dict) else None
    if named is not None:
        functions = [function for function in functions if function.name == named]
        if not functions:
            raise PromptError(f"tool_choice names {named!r:.80}, which is not among the tools")
    elif tool_choice not in ("auto", "required", None):
        raise PromptError(f"tool_choice is {tool_choice!r:.80}; it must be none, auto, required or a function's name")
    return FunctionPrompt(functions, form, allow_none=tool_choice in ("auto", None), max_calls=max_calls)


def to_openai_tool_calls(calls: Iterable[Call], prefix: str = "call_") -> list[dict[str, Any]]:
    """Calls as a message's `tool_calls`. prefix: of the ids, which must be unique within a conversation."""
    return [
        {
            "id": f"{prefix}{i}",
            "type": "function",
            "function": {"name": call.function, "arguments": json.dumps(call.params, ensure_ascii=False)},
        }
        for i, call in enumerate(calls)
    ]


def _call_schema(name: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"function": name, "params": params},
        "required": ["function", "params"],
        "additionalProperties": False,
    }


def _yaml(value: Any, level: int) -> str:
    """A mapping as a YAML block from behind its colon; texts bare where YAML allows it, lists as JSON."""
    if isinstance(value, str):
        return f" {scalar(value)}"
    if not isinstance(value, dict) or not value:
        return f" {_flow(value)}"
    return "".join(f"\n{'  ' * level}{scalar(str(key))}:{_yaml(item, level + 1)}" for key, item in value.items())


def _flow(value: Any) -> str:
    """A value on one line. As JSON, but for texts: JSON leaves characters bare that YAML does not allow."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(str(key))}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return json.dumps(value)
