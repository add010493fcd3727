"""Finds function calls in an answer: JSON or YAML, fenced or bare, one or several, with prose around them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from halfbyte.errors import PromptError
from halfbyte.prompts.function_values import read_value
from halfbyte.prompts.json_reader import find_json
from halfbyte.prompts.position import Span, Text
from halfbyte.prompts.yaml_reader import read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from halfbyte.prompts.function import Function
    from halfbyte.prompts.tree import Node

_START = re.compile(r"([ \t]{0,40})(-[ \t]{1,8})?function[ \t]{0,8}:")
_NONE = re.compile(r"\bno\s{1,8}(?:\w{1,30}\s{1,8}){0,3}functions?\b", re.IGNORECASE)
_NO_NAMES = ("none", "null", "~", "", "no suitable function", "no_suitable_function")


@dataclass(frozen=True, slots=True)
class Call:
    """A call that fits its function: known parameters of the right types, none missing."""

    function: str
    params: dict[str, Any]
    span: Span  # where it stands in the answer


def read_calls(answer: str, functions: Mapping[str, Function], form: str) -> tuple[Call, ...]:
    """All calls of an answer, in their order; () where it says that no function suits.

    form: "json" or "yaml", what is looked for first. Raises PromptError, located, if a call is not valid or if there
    is neither a call nor a word that no function suits.
    """
    text = Text(answer)
    finders = (_json_calls, _yaml_calls) if form == "json" else (_yaml_calls, _json_calls)
    errors: list[PromptError] = []
    for find in finders:
        found = [item for item in find(text) if not _is_error(item, errors)]
        if found:
            calls = [_call(node, functions, text) for node in found if not isinstance(node, PromptError)]
            return tuple(call for call in calls if call is not None)
    if errors:
        raise errors[0]
    if _NONE.search(answer):
        return ()
    raise text.error("there is no function call", 0)


def _is_error(item: Node | PromptError, errors: list[PromptError]) -> bool:
    if isinstance(item, PromptError) and not errors:
        errors.append(item)  # the first is told; there may be as many as characters
    return isinstance(item, PromptError)


def _json_calls(text: Text) -> Iterator[Node | PromptError]:
    for found in find_json(text):
        if isinstance(found, PromptError):
            yield found
        elif found.kind == "map":
            yield _with_function(found, text)
        else:
            yield from (_with_function(item, text) for item in found.items)


def _with_function(node: Node, text: Text) -> Node | PromptError:
    if node.kind == "map" and node.get("function") is not None:
        return node
    return text.error('there is no "function" in it', node.start)


def _yaml_calls(text: Text) -> Iterator[Node | PromptError]:
    for document, offset in _documents(text):
        try:
            node = read_yaml(text, document, offset)
        except PromptError as error:
            yield error
        else:
            assert node is not None
            yield _with_function(node, text)


def _documents(text: Text) -> Iterable[tuple[str, int]]:
    """Each stretch of lines from `function:` on that are indented deeper, or are its `params:`."""
    lines = text.lines()
    at = 0
    while at < len(lines):
        found = _START.match(lines[at].text)
        if found is None:
            at += 1
            continue
        first, depth = at, len(found[1]) + len(found[2] or "")
        at += 1
        while at < len(lines) and _belongs(lines[at].text, depth):
            at += 1
        end = lines[at - 1].start + len(lines[at - 1].text)
        yield " " * depth + text.text[lines[first].start + depth : end], lines[first].start


def _belongs(line: str, depth: int) -> bool:
    body = line.lstrip(" \t")
    indent = len(line) - len(body)
    return not body or indent > depth or (indent == depth and body.startswith("params"))


def _call(node: Node, functions: Mapping[str, Function], text: Text) -> Call | None:
    """A checked call; None if the node says that no function suits."""
    name = node.get("function")
    assert name is not None
    if name.kind != "scalar":
        raise text.error('"function" must be a name', name.start)
    for key, _ in node.pairs:
        if key.value not in ("function", "params"):
            raise text.error(f"a call has function and params, not {key.value!r}", key.start)
    params = node.get("params")
    function = functions.get(str(name.value))
    if function is None:
        if name.value is None or str(name.value).strip().lower() in _NO_NAMES:
            return None
        raise text.error(f"there is no function {str(name.value)!r:.80}; there are: {', '.join(functions)}", name.start)
    if params is None or (params.plain and params.value in ("", "null", "~")):
        missing = function.parameters.get("required", ())
        if missing:
            raise text.error(f"{name.value} lacks its params: {', '.join(missing)}", node.start)
        values: Any = {}
    else:
        values = read_value(params, function.parameters, text, "params")
    return Call(function.name, values, text.span(node.start, node.end))
