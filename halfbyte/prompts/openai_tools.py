"""OpenAI chat requests with `tools` in the airoboros form, and answers back as `tool_calls`.

A request for a call becomes the card's function prompt. A request that ends with results of tools becomes a
closed-context prompt: each result a block whose metadata is the call, the user's words the instruction. So a model
that knows only these two forms can serve such requests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from halfbyte.errors import PromptError
from halfbyte.prompts.context import Block, ContextPrompt
from halfbyte.prompts.functions import FunctionPrompt, from_openai_tools, to_openai_tool_calls

if TYPE_CHECKING:
    from halfbyte.prompts.functions import Form

MOST_PARALLEL = 8  # calls of one answer, where a request says parallel_tool_calls


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """What to ask the model.

    messages: system, user and assistant texts only, for any chat template. prompt: reads the answer, and constrains it
    (`prompt.grammar()`, `prompt.json_schema()`); None where no call is wanted and the answer is a text.
    """

    messages: list[dict[str, str]]
    prompt: FunctionPrompt | None

    def answer(self, text: str, *, id_prefix: str = "call_") -> tuple[dict[str, Any], str]:
        """The assistant's message and its finish_reason, of what the model has written.

        Where the model may leave tools alone (tool_choice "auto"), what is no valid call is a text. id_prefix: of the
        ids of calls, which must be unique in a conversation. Raises PromptError, located, for an answer that is no
        valid call where there must be one.
        """
        if self.prompt is None:
            return {"role": "assistant", "content": text}, "stop"
        try:
            calls = self.prompt.parse(text)
        except PromptError:
            if not self.prompt.allow_none:
                raise
            calls = ()
        if not calls:
            return {"role": "assistant", "content": text}, "stop"
        tool_calls = to_openai_tool_calls(calls, id_prefix)
        return {"role": "assistant", "content": None, "tool_calls": tool_calls}, "tool_calls"


def from_openai_request(request: Mapping[str, Any], *, form: Form = "json") -> ToolRequest:
    """Of a chat-completions request: its messages, tools, tool_choice and parallel_tool_calls.

    One call is asked for unless parallel_tool_calls is true. After results of tools the model is to answer in words,
    but if tool_choice names a function or says "required". Raises PromptError that names the message or tool.
    """
    messages = request.get("messages")
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise PromptError("messages must be a list with at least one message")
    turns = _Turns()
    for index, message in enumerate(messages):
        turns.take(message, f"messages[{index}]")
    prompt, choice = _prompt(request, form), request.get("tool_choice")
    last = messages[-1]["role"]
    if last == "assistant" or not turns.said:
        raise PromptError(f"messages[{len(messages) - 1}]: the last message must be the user's, or a tool's result")
    if prompt and (last == "user" or choice not in (None, "auto")):
        turns.said[-1]["content"] = prompt.render(turns.said[-1]["content"])
        return ToolRequest(turns.all(), prompt)
    return ToolRequest(turns.all(), None)


def _prompt(request: Mapping[str, Any], form: Form) -> FunctionPrompt | None:
    tools = request.get("tools")
    if not tools:
        return None
    if not isinstance(tools, Sequence) or isinstance(tools, str) or not all(isinstance(t, Mapping) for t in tools):
        raise PromptError("tools must be a list of objects")
    most = MOST_PARALLEL if request.get("parallel_tool_calls") is True else 1
    return from_openai_tools(tools, request.get("tool_choice", "auto"), form=form, max_calls=most)


class _Turns:
    """Messages as they are taken: system texts are joined, results of one turn are one prompt."""

    def __init__(self) -> None:
        self.system: list[str] = []
        self.said: list[dict[str, str]] = []
        self._calls: dict[str, tuple[str, str]] = {}  # by id: function and arguments
        self._asked = ""  # the user's latest words
        self._blocks: list[Block] = []

    def all(self) -> list[dict[str, str]]:
        """The messages."""
        system = [{"role": "system", "content": "\n\n".join(self.system)}] if self.system else []
        return system + self.said

    def take(self, message: Any, where: str) -> None:
        """Take the next message."""
        if not isinstance(message, Mapping):
            raise PromptError(f"{where} is a {type(message).__name__}, not an object with role and content")
        role = message.get("role")
        if role == "tool":
            self._result(message, where)
            return
        self._blocks = []
        if role in ("system", "developer"):
            if self.said:
                raise PromptError(f"{where}: a {role} message must come before all others")
            self.system.append(_text(message, where))
        elif role == "user":
            self._asked = _text(message, where)
            self._say("user", self._asked, where)
        elif role == "assistant":
            self._say("assistant", self._written(message, where), where)
        else:
            raise PromptError(f"{where}: role is {role!r:.40}; it must be system, developer, user, assistant or tool")

    def _say(self, role: str, content: str, where: str) -> None:
        due = "assistant" if self.said and self.said[-1]["role"] == "user" else "user"
        if role != due:
            raise PromptError(f"{where}: role is {role!r} where {due!r} is due")
        self.said.append({"role": role, "content": content})

    def _written(self, message: Mapping[str, Any], where: str) -> str:
        """An assistant's message of the history, its calls in the airoboros form."""
        calls = message.get("tool_calls")
        if not calls:
            return _text(message, where)
        if not isinstance(calls, Sequence) or isinstance(calls, str):
            raise PromptError(f"{where}: tool_calls must be a list")
        objects = [self._call(call, f"{where}: tool_calls[{i}]") for i, call in enumerate(calls)]
        return json.dumps(objects if len(objects) > 1 else objects[0], indent=2, ensure_ascii=False)

    def _call(self, call: Any, where: str) -> dict[str, Any]:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise PromptError(f"{where} has no function with a name")
        arguments = function.get("arguments", "")
        try:
            params = json.loads(arguments or "{}")
        except (TypeError, ValueError, RecursionError):
            raise PromptError(f"{where}: arguments must be a text of JSON, not {arguments!r:.60}") from None
        self._calls[str(call.get("id", ""))] = function["name"], arguments
        return {"function": function["name"], "params": params}

    def _result(self, message: Mapping[str, Any], where: str) -> None:
        call = self._calls.get(str(message.get("tool_call_id", "")))
        if call is None:
            raise PromptError(f"{where}: tool_call_id {message.get('tool_call_id')!r:.60} is of no call before it")
        metadata = ("function", call[0]), ("params", " ".join(call[1].split()))
        block = Block(_text(message, where, may_be_empty=True), metadata)
        if self._blocks:
            self.said.pop()
        self._blocks.append(block)
        self._say("user", ContextPrompt(tuple(self._blocks), self._asked).render(), where)


def _text(message: Mapping[str, Any], where: str, *, may_be_empty: bool = False) -> str:
    """A message's content: a text, or parts that are texts."""
    content = message.get("content")
    parts = [content] if isinstance(content, str) else content
    if not isinstance(parts, Sequence) or (not parts and not may_be_empty):
        raise PromptError(f"{where}: content is a {type(content).__name__}; it must be a text, or a list of parts")
    texts = [part if isinstance(part, str) else _part(part, where) for part in parts]
    if not may_be_empty and not "".join(texts).strip():
        raise PromptError(f"{where}: content is empty")
    return "\n".join(texts)


def _part(part: Any, where: str) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise PromptError(f"{where}: a part of type {kind!r:.40}; only text can be read")
