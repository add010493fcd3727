"""A tool: a typed async function with a docstring, which a plan may call by name with one argument."""

from __future__ import annotations

import asyncio
import inspect
import json
import typing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, overload

from halfbyte.errors import ToolError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    Function = Callable[[Any], Awaitable[Any]]

# What plan_grammar lets a model write as a text argument. "quote": evidence, or words of the question as they stand.
# "asks": a question about evidence, in the card's words: "…, given :evidence0:?". "sum": arithmetic.
Form = Literal["text", "quote", "asks", "sum"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a tool gives, when it has more to say than a text."""

    text: str
    prompt_tokens: int = 0  # that a model has read for it
    completion_tokens: int = 0
    sources: tuple[str, ...] = ()  # addresses that the text is from


@dataclass(frozen=True, slots=True)
class Tool:
    """What the executor needs to know of a tool. May be awaited like the function that it was made of."""

    name: str
    description: str  # for the planner
    function: Function
    argument_type: type = str  # str, int, float, bool; list: a line each; dict: JSON
    timeout: float = 30.0  # seconds, of one attempt
    retries: int = 0  # attempts after the first, if it fails with a retryable ToolError or takes too long
    concurrency: int | None = None  # calls at a time; None: as many as the executor allows
    cacheable: bool = True  # the same argument gives the same evidence, and nothing else happens
    takes_gaps: bool = False  # can make something of an argument in which evidence is missing
    form: Form = "text"  # what plan_grammar lets a model write as its argument; a plan may be read with any other
    gives_pages: bool = False  # evidence is a text to be read, such as a page: no name, and no term of a sum

    async def __call__(self, argument: Any) -> Any:
        """Call it as the function that it was made of."""
        return await self.function(argument)

    async def call(self, argument: str) -> Evidence:
        """Call it with the text of a plan. Raises ToolError if the text is not of the argument's type."""
        value, problem = read_argument(argument, self.argument_type)
        if problem:
            raise ToolError(f"the argument {problem}")
        result = await self.function(value)
        return result if isinstance(result, Evidence) else Evidence(as_text(result))

    def problem_with(self, argument: str) -> str | None:
        """What is wrong with an argument that has no references; None if nothing is."""
        return read_argument(argument, self.argument_type)[1]

    def with_options(self, **changes: Any) -> Tool:
        """The same tool with another timeout, name, …"""
        return replace(self, **changes)


@overload
def tool(function: Function, /) -> Tool: ...
@overload
def tool(*, name: str | None = None, description: str | None = None, **options: Any) -> Callable[[Function], Tool]: ...
def tool(function: Function | None = None, /, **options: Any) -> Tool | Callable[[Function], Tool]:
    """Make a tool of an async function that takes one argument: `@tool`, or `@tool(timeout=5, retries=2)`.

    Its name is the function's, its description the docstring, the argument's type the annotation: str, int, float,
    bool, list[str] (the lines of the text) or dict (JSON). Options are those of `Tool`.
    """
    if function is None:
        return lambda f: make_tool(f, **options)
    return make_tool(function)


def make_tool(
    function: Callable[..., Any], *, name: str | None = None, description: str | None = None, **options: Any
) -> Tool:
    """`tool` as a plain function; a function that is not async runs in a thread, which no timeout can stop."""
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
    called = function if is_async else _in_thread(function)
    text = description or inspect.getdoc(function) or ""
    kind = argument_type(function)
    return Tool(name or str(getattr(function, "__name__", "tool")), " ".join(text.split()), called, kind, **options)


def tool_table(tools: Iterable[Tool | Callable[..., Any]] | Mapping[str, Tool | Callable[..., Any]]) -> dict[str, Tool]:
    """Tools by name; functions become tools. Raises ToolError if two have one name, or something is no function."""
    given = list(tools.items()) if hasattr(tools, "items") else [(None, t) for t in tools]
    table: dict[str, Tool] = {}
    for name, item in given:
        if not callable(item):
            raise ToolError(f"{item!r:.60} is not a tool: give a function, or what the tool decorator makes of one")
        made = item if isinstance(item, Tool) else make_tool(item, name=name)
        if name is not None and made.name != name:
            made = made.with_options(name=name)
        if made.name in table:
            raise ToolError(f"there are two tools with the name {made.name}")
        table[made.name] = made
    return table


def argument_type(function: Callable[..., Any]) -> type:
    """The type of a function's first argument, str if it does not say."""
    try:
        parameters = list(inspect.signature(function).parameters)
        hint = typing.get_type_hints(function).get(parameters[0]) if parameters else str
    except (NameError, TypeError, ValueError):  # annotations of a name that is only there for a type checker
        return str
    kind = typing.get_origin(hint) or hint
    return kind if kind in (str, int, float, bool, list, dict) else str


def read_argument(text: str, kind: type) -> tuple[Any, str | None]:
    """A plan's text as a value of a type, and what is wrong with it if it is none."""
    if kind is list:
        return [line.strip() for line in text.splitlines() if line.strip()], None
    if kind is str:
        return text, None
    plain = text.strip()
    try:
        if kind is dict:
            value = json.loads(plain)
            return (value, None) if isinstance(value, dict) else (None, f"must be a JSON object, not {plain!r:.40}")
        if kind is bool:
            return {"true": True, "yes": True, "false": False, "no": False}[plain.lower()], None
        return kind(plain), None
    except (ValueError, KeyError, RecursionError):
        form = {int: "a whole number", float: "a number", bool: "true or false", dict: "a JSON object"}[kind]
        return None, f"must be {form}, not {plain!r:.40}"


def as_text(value: Any) -> str:
    """A function's result as evidence."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(value)


def _in_thread(function: Callable[..., Any]) -> Function:
    async def call(argument: Any) -> Any:
        return await asyncio.to_thread(function, argument)

    return call
