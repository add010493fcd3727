"""A conversation as a prompt: tools, templates, and how the answer is to be read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from halfbyte.prompts.templates import TEMPLATES, jinja_template
from halfbyte.server.openai.tool_forms import ToolPrompt, tool_prompt
from halfbyte.server.problems import ServerProblem
from halfbyte.server.reading import cut, read_text

if TYPE_CHECKING:
    from halfbyte.checkpoint.tokenizer import Tokenizer
    from halfbyte.engine.prompt import ReadPrompt
    from halfbyte.server.models import ServedModel
    from halfbyte.server.openai.protocol import ChatBody
    from halfbyte.server.openai.tool_calls import CallForm


@dataclass(frozen=True, slots=True)
class Conversation:
    """What to ask the model."""

    prompt: ReadPrompt
    stops: tuple[str, ...]  # of the chat template
    grammar: str | None  # of calls
    form: CallForm | None  # of calls in the answer


async def read_conversation(body: ChatBody, model: ServedModel) -> Conversation:
    """Of a request. Raises TokenizerError or PromptError for messages that cannot be rendered."""
    tokenizer, stops = _template(body.chat_template, model)
    messages = [_plain(message) for message in body.model_dump(include={"messages"})["messages"]]
    found = ToolPrompt(messages, {})
    if body.speaks_of_calls:
        found = tool_prompt(_request(body, messages), tokenizer)
    variables = (body.chat_template_kwargs or {}) | found.variables
    begins = body.add_generation_prompt and not body.continue_final_message
    try:
        text = tokenizer.render_chat(found.messages, add_generation_prompt=begins, **variables)
    except TypeError as error:  # a variable named like one of ours
        raise ServerProblem(400, f"chat_template_kwargs: {error}", param="chat_template_kwargs") from None
    if body.continue_final_message:
        text = _up_to_the_end_of(found.messages[-1], text)
    prompt = await read_text(model, text, add_special_tokens=False)  # the template has written them
    return Conversation(cut(prompt, body.truncate_prompt_tokens), stops, found.grammar, found.form)


def _template(name: str | None, model: ServedModel) -> tuple[Tokenizer, tuple[str, ...]]:
    if name is None:
        return model.tokenizer, model.stops
    if name not in TEMPLATES:
        raise ServerProblem(
            400, f"chat_template is {name!r:.80}; it must be one of {', '.join(TEMPLATES)}", param="chat_template"
        )
    jinja = jinja_template(name, adds_bos=model.tokenizer.adds_bos)
    return model.tokenizer.with_chat_template(jinja), TEMPLATES[name].stop


def _up_to_the_end_of(message: dict[str, Any], text: str) -> str:
    """A rendered conversation without what the template writes behind the last message."""
    content = message["content"]
    if not isinstance(content, str):
        content = content[-1]["text"]
    for said in (content, content.rstrip(), content.strip()):  # templates may take white space away
        if said and (found := text.rfind(said)) >= 0:
            return text[: found + len(said)]
    raise ServerProblem(
        400, "the chat template does not write the last message as it is: it cannot be continued", param="messages"
    )


def _request(body: ChatBody, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The part of a request that tools are about, as plain values; calls in messages are checked."""
    for index, message in enumerate(messages):
        for place, call in enumerate(message.get("tool_calls") or []):
            _check_call(call, f"messages[{index}].tool_calls[{place}]")
    tools = [_declared(tool) for tool in body.model_dump(include={"tools"})["tools"] or []]
    choice = body.tool_choice if isinstance(body.tool_choice, str | None) else body.tool_choice.model_dump()
    names = [tool["function"]["name"] for tool in tools]
    if isinstance(choice, dict) and choice["function"]["name"] not in names:
        name = choice["function"]["name"]
        raise ServerProblem(400, f"tool_choice names {name!r:.80}, which is not among the tools", param="tool_choice")
    return {
        "messages": messages,
        "tools": tools,
        "tool_choice": choice or "auto",
        "parallel_tool_calls": body.parallel_tool_calls,
    }


def _declared(tool: dict[str, Any]) -> dict[str, Any]:
    function = {key: value for key, value in tool["function"].items() if value is not None}
    function.setdefault("parameters", {"type": "object", "properties": {}, "additionalProperties": False})
    return {"type": "function", "function": function}


def _check_call(call: Any, where: str) -> None:
    try:
        arguments = call["function"]["arguments"]
        fits = isinstance(call["function"]["name"], str) and isinstance(json.loads(arguments or "{}"), dict)
    except (TypeError, KeyError, ValueError, RecursionError):
        fits = False
    if not fits:
        message = f"{where} must hold a function with a name and with arguments, a text of a JSON object"
        raise ServerProblem(400, message, param="messages")


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """Without what is null; templates know `developer` as `system`."""
    found = {key: value for key, value in message.items() if value is not None}
    return found | {"role": "system"} if found["role"] == "developer" else found
