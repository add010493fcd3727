"""How a model is asked to call functions: in its own chat template's form if that is known, else in airoboros'.

Either way the call is constrained: once it has begun, nothing but the name of a function that was offered and arguments
that keep to its schema can be sampled. Where the model may answer in words instead (tool_choice "auto"), its first
token decides, or the mark that opens a call.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from halfbyte.prompts.function import Function
from halfbyte.prompts.openai_tools import MOST_PARALLEL, from_openai_request
from halfbyte.server.openai.tool_calls import AIROBOROS, HERMES, CallForm

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from halfbyte.checkpoint.tokenizer import Tokenizer

LONGEST_TEXT = 1024  # characters of a text in arguments of the airoboros form, whose texts all have an end


@dataclass(frozen=True, slots=True)
class ToolPrompt:
    """messages: for the chat template, with `variables`. grammar: what the answer keeps to, in Lark; None: words."""

    messages: list[dict[str, Any]]
    variables: dict[str, Any]
    grammar: str | None = None
    form: CallForm | None = None


def tool_prompt(request: Mapping[str, Any], tokenizer: Tokenizer) -> ToolPrompt:
    """Of a chat-completions request that has tools, or messages that speak of calls.

    request: messages, tools, tool_choice and parallel_tool_calls, checked. Raises PromptError for what cannot be asked.
    """
    return _hermes(request, tokenizer) if writes_hermes(tokenizer) else _airoboros(request)


def writes_hermes(tokenizer: Tokenizer) -> bool:
    """Whether the chat template asks for calls as Hermes and Qwen write them."""
    template = tokenizer.chat_templates.get("tool_use", tokenizer.chat_template) or ""
    return "tools" in template and "<tool_call>" in template and "arguments" in template


def _airoboros(request: Mapping[str, Any]) -> ToolPrompt:
    asked = from_openai_request(request)
    if asked.prompt is None:
        return ToolPrompt(asked.messages, {})
    must_call = not asked.prompt.allow_none
    grammar = replace(asked.prompt, allow_none=False, max_string=LONGEST_TEXT).grammar().lark()
    if not must_call:  # words do not begin as a call does
        rules = grammar.removeprefix("start: ")
        grammar = f"start: calls | WORDS\nWORDS: /[^{{\\[\\s](.|\\n)*/\ncalls: {rules}"
    return ToolPrompt(asked.messages, {}, grammar, AIROBOROS)


def _hermes(request: Mapping[str, Any], tokenizer: Tokenizer) -> ToolPrompt:
    messages = [_with_objects(message) for message in request["messages"]]
    choice = request.get("tool_choice") or "auto"
    tools = request.get("tools") or []
    if choice == "none" or not tools:
        return ToolPrompt(messages, {})
    if isinstance(choice, dict):
        tools = [tool for tool in tools if tool["function"]["name"] == choice["function"]["name"]]
    is_one = isinstance(choice, dict) or request.get("parallel_tool_calls") is False
    most = 1 if is_one else MOST_PARALLEL
    grammar = hermes_grammar(
        [Function.of(tool) for tool in tools], marks(tokenizer), must_call=choice != "auto", most=most
    )
    return ToolPrompt(messages, {"tools": tools}, grammar, HERMES)


def hermes_grammar(functions: Sequence[Function], marks: tuple[str, str], *, must_call: bool, most: int) -> str:
    """One to `most` calls, or words and then perhaps calls. marks: what opens and closes a call, in Lark."""
    mark, end = marks
    calls = "body" + (f' ("\\n" {mark} body){{0,{most - 1}}}' if most > 1 else "")
    lines = [f"start: {mark} {calls}"]
    if not must_call:
        opened = f"WORDS {mark}" if mark.startswith("<") else "opened"
        lines = [f"start: WORDS | {opened} {calls}", "WORDS: /(.|\\n)*/"]
        lines += [] if mark.startswith("<") else [f"opened[lazy]: WORDS {mark}"]
    lines.append("body: " + " | ".join(f"f{i}" for i in range(len(functions))))
    for i, function in enumerate(functions):
        head = f'\n{{"name": {json.dumps(function.name)}, "arguments": '
        lines.append(f"f{i}: {json.dumps(head)} %json {_schema(function)} {json.dumps('}' + chr(10))} {end}")
    return "\n".join(lines) + "\n"


def _schema(function: Function) -> str:
    spacing = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    text = json.dumps({"x-guidance": spacing, **function.parameters})
    return text.replace("::=", ":\\u003a=")  # the engine knows GBNF by these signs


def marks(tokenizer: Tokenizer) -> tuple[str, str]:
    """What opens and closes a call, in Lark: a token if the tokenizer has one for it, else the text.

    llguidance takes such a token for a special one, whether the tokenizer calls it that or not, and would then ask for
    it where a grammar has the text, and refuse it when it comes.
    """
    added = {token.content for token in tokenizer.backend.get_added_tokens_decoder().values()}
    opening, closing = (mark if mark in added else json.dumps(mark) for mark in ("<tool_call>", "</tool_call>"))
    return opening, closing


def _with_objects(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message whose calls have their arguments as objects, which templates write as JSON themselves."""
    calls = message.get("tool_calls")
    if not calls:
        return dict(message)
    return {**message, "tool_calls": [_with_object(call) for call in calls]}


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.loads(function["arguments"] or "{}")}}
