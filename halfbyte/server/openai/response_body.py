"""The body of POST /v1/responses, and the chat that it stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from halfbyte.server.openai.protocol import MOST_LOGPROBS, Body, ChatBody, Stops
from halfbyte.server.problems import ServerProblem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Item = dict[str, Any]
LOGPROBS = "message.output_text.logprobs"  # as `include` names them
TEXT_PARTS = ("input_text", "output_text", "text")


class TextFormat(BaseModel):
    """What the text must be."""

    model_config = ConfigDict(strict=True, extra="ignore")
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> TextFormat:
        if self.type == "json_schema" and self.schema_ is None:
            raise ValueError("of type json_schema must hold a schema")
        return self


class TextOptions(BaseModel):
    """Of the text of an answer."""

    model_config = ConfigDict(strict=True, extra="ignore")
    format: TextFormat | None = None


class FunctionTool(BaseModel):
    """Only functions; OpenAI's other tools run on its own service."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)
    type: Literal["function"]
    name: str = Field(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionChoice(BaseModel):
    """The function that must be called."""

    model_config = ConfigDict(strict=True, extra="ignore")
    type: Literal["function"]
    name: str


class ResponseBody(Body):
    """POST /v1/responses."""

    input: str | Annotated[list[dict[str, Any]], Field(min_length=1)]
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    include: list[str] | None = None
    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None
    text: TextOptions | None = None
    tools: list[FunctionTool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    truncation: Literal["disabled"] | None = Field(None, description="An input that is too long is refused.")
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    user: str | None = None
    conversation: Any = Field(None, description="Refused: use previous_response_id.")
    prompt: Any = Field(None, description="Refused: there are no stored prompts.")
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stops | None = None
    ignore_eos: bool = False
    priority: int = Field(0, ge=-(2**31), lt=2**31)
    chat_template: str | None = None

    @model_validator(mode="after")
    def _together(self) -> ResponseBody:
        if self.conversation is not None or self.prompt is not None:
            raise ValueError("conversation and prompt are not supported; use previous_response_id and instructions")
        if self.background and self.stream:
            raise ValueError("a response cannot be both of background and stream; ask for it later by its id")
        if self.background and self.store is False:
            raise ValueError("a background response must be stored: nobody could ask for it")
        return self

    @property
    def wants_logprobs(self) -> bool:
        """Whether log-probabilities are to be told."""
        return LOGPROBS in (self.include or ()) or self.top_logprobs is not None

    @property
    def items(self) -> list[Item]:
        """The input as items."""
        return [{"role": "user", "content": self.input}] if isinstance(self.input, str) else self.input


SAME_NAMES = (
    "model", "temperature", "top_p", "parallel_tool_calls", "top_k", "min_p", "repetition_penalty", "seed", "stop",
    "ignore_eos", "priority", "chat_template",
)  # fmt: skip


def as_chat(body: ResponseBody, before: Iterable[Item]) -> ChatBody:
    """The chat. before: the items of the responses that this one follows. Raises ServerProblem for items unknown."""
    system = [] if body.instructions is None else [{"role": "system", "content": body.instructions}]
    chat: dict[str, Any] = {name: value for name in SAME_NAMES if (value := getattr(body, name)) is not None}
    chat["messages"] = system + messages_of([*before, *body.items])
    chat["max_completion_tokens"] = body.max_output_tokens
    if body.wants_logprobs:
        chat |= {"logprobs": True, "top_logprobs": body.top_logprobs or 0}
    if body.tools:
        chat["tools"] = [{"type": "function", "function": tool.model_dump(exclude={"type"})} for tool in body.tools]
        chat["parallel_tool_calls"] = body.parallel_tool_calls is not False  # OpenAI's default here
    if isinstance(body.tool_choice, FunctionChoice):
        chat["tool_choice"] = {"type": "function", "function": {"name": body.tool_choice.name}}
    else:
        chat["tool_choice"] = body.tool_choice
    if body.text is not None and body.text.format is not None:
        chat["response_format"] = _format(body.text.format)
    try:
        return ChatBody.model_validate(chat)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        message = f"{place}: {first['msg']}" if place else first["msg"].removeprefix("Value error, ")
        raise ServerProblem(400, message, param="input") from None


def messages_of(items: Iterable[Item]) -> list[dict[str, Any]]:
    """Items as the messages of a chat; calls that follow one another belong to one message."""
    messages: list[dict[str, Any]] = []
    for place, item in enumerate(items):
        kind = item.get("type", "message")
        if kind == "message":
            messages.append({"role": item.get("role"), "content": _text(item.get("content"), f"input[{place}]")})
        elif kind == "function_call":
            _add_call(messages, item)
        elif kind == "function_call_output":
            content = _text(item.get("output"), f"input[{place}]")
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
        elif kind != "reasoning":
            raise ServerProblem(400, f"input[{place}]: items of type {kind!r:.60} are not supported", param="input")
    return messages


def _add_call(messages: list[dict[str, Any]], item: Mapping[str, Any]) -> None:
    function = {"name": item.get("name"), "arguments": item.get("arguments")}
    call = {"id": item.get("call_id"), "type": "function", "function": function}
    if messages and messages[-1]["role"] == "assistant":
        messages[-1].setdefault("tool_calls", []).append(call)
    else:
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})


def _text(content: Any, where: str) -> str:
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = []
    for part in parts:
        known = isinstance(part, dict) and part.get("type") in TEXT_PARTS and isinstance(part.get("text"), str)
        if not known:
            message = f"{where}: the content must be a text, or a list of parts of type {', '.join(TEXT_PARTS)}"
            raise ServerProblem(400, message, param="input")
        texts.append(part["text"])
    return "\n".join(texts)


def _format(form: TextFormat) -> dict[str, Any]:
    if form.type != "json_schema":
        return {"type": form.type}
    return {"type": form.type, "json_schema": {"name": form.name or "answer", "schema": form.schema_}}
