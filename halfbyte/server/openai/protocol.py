"""The bodies of requests.

Types are taken strictly: a number in quotes is refused, as OpenAI does. Fields that are not known are let be, since
clients send many that only steer OpenAI's own service; those that would change an answer and cannot be honoured are
refused by name.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from halfbyte.server.openai.prompts import Prompts

MOST_ANSWERS = 128  # OpenAI's bound for n
MOST_LOGPROBS = 20
MOST_STOPS = 64
TokenId = Annotated[int, Field(ge=0)]
# Fields of other servers that would change an answer: what they may be, since nothing else is done here, and why.
ONLY_AS: dict[str, tuple[Any, str]] = {
    "use_beam_search": (False, "answers are sampled"),
    "length_penalty": (1, "it weighs beams, and answers are sampled"),
    "prompt_logprobs": (None, "/v1/completions tells them with echo and logprobs"),
    "logits_processors": ([], "a server runs no code of its clients; logit_bias and structured_outputs may serve"),
    "mirostat": (0, "it is llama.cpp's; top_k, top_p and min_p are there"),
    "tfs_z": (1, "it is llama.cpp's; top_k, top_p and min_p are there"),
    "dry_multiplier": (0, "repetition_penalty, frequency_penalty and presence_penalty are there"),
    "xtc_probability": (0, "top_k, top_p and min_p are there"),
}
ONLY_AS_IN_CHATS = {
    "echo": (False, "it belongs to /v1/completions"),
    "best_of": (1, "it belongs to /v1/completions"),
    "web_search_options": (None, "nothing is searched for"),
    "documents": (None, "chat_template_kwargs may hold what the template reads"),
}
Stops = str | Annotated[list[str], Field(max_length=MOST_STOPS)]


class Body(BaseModel):
    """What all bodies have in common."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)
    model: str | None = Field(None, description="One of /v1/models; without it, the first.")


class StreamOptions(BaseModel):
    """What a stream also tells."""

    model_config = ConfigDict(strict=True, extra="ignore")
    include_usage: bool = False
    continuous_usage_stats: bool = False  # vLLM's: usage with every chunk


class JsonSchema(BaseModel):
    """A named schema."""

    model_config = ConfigDict(strict=True, extra="ignore")
    name: str = "answer"
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """What the answer's text must be."""

    model_config = ConfigDict(strict=True, extra="ignore")
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and (self.json_schema is None or self.json_schema.schema_ is None):
            raise ValueError("of type json_schema must hold json_schema.schema")
        return self


class StructuredOutputs(BaseModel):
    """vLLM's name for a constraint; at most one."""

    model_config = ConfigDict(strict=True, extra="ignore")
    json_: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None


class SamplingBody(Body):
    """How answers are sampled: OpenAI's parameters, then those that vLLM adds, under its names."""

    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1, le=MOST_ANSWERS)
    stop: Stops | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    logit_bias: dict[str, float] | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0)
    stop_token_ids: list[TokenId] | None = None
    allowed_token_ids: list[TokenId] | None = None
    bad_words: list[str] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int = Field(0, ge=0)
    skip_special_tokens: bool = True
    truncate_prompt_tokens: int | None = Field(None, ge=1)
    priority: int = Field(0, ge=-(2**31), lt=2**31, description="Lower is served first.")
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_as(cls, given: Any) -> Any:
        return _honoured(given, ONLY_AS)

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> SamplingBody:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream to be true")
        return self


def _honoured(given: Any, only_as: dict[str, tuple[Any, str]]) -> Any:
    """The fields of a body as they are. Raises ValueError for one that cannot be honoured."""
    for name, (value, reason) in only_as.items() if isinstance(given, dict) else ():
        if given.get(name) not in (None, value):
            raise ValueError(f"{name} can only be left out or {json.dumps(value)}: {reason}")
    return given


class CompletionBody(SamplingBody):
    """POST /v1/completions."""

    prompt: Prompts = Field(description="A text, texts, token ids, or lists of token ids.")
    max_tokens: int | None = Field(None, ge=0)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    best_of: int | None = Field(None, ge=1, le=MOST_ANSWERS)
    add_special_tokens: bool = Field(True, description="Whether the tokenizer puts its first token before a text.")
    suffix: str | None = None

    @model_validator(mode="after")
    def _together(self) -> CompletionBody:
        if self.suffix:
            raise ValueError("suffix is not supported: the models served here write on, they do not fill in")
        if self.best_of is not None and self.best_of < (self.n or 1):
            raise ValueError(f"best_of is {self.best_of}; it must be at least n, which is {self.n or 1}")
        if self.best_of is not None and self.stream and self.best_of > (self.n or 1):
            raise ValueError("best_of cannot be streamed: which answers are best is known at the end")
        return self


class Message(BaseModel):
    """One message of a conversation; what else it holds is for the chat template."""

    model_config = ConfigDict(strict=True, extra="allow")
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None


class FunctionDefinition(BaseModel):
    """A function that may be called."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)
    name: str = Field(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """Only functions; OpenAI's other tools run on its own service."""

    model_config = ConfigDict(strict=True, extra="ignore")
    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(BaseModel):
    """A function's name."""

    model_config = ConfigDict(strict=True, extra="ignore")
    name: str


class NamedChoice(BaseModel):
    """The function that must be called."""

    model_config = ConfigDict(strict=True, extra="ignore")
    type: Literal["function"]
    function: NamedFunction


class ChatBody(SamplingBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Any = Field(None, description="Refused: tools has taken its place.")
    function_call: Any = Field(None, description="Refused: tool_choice has taken its place.")
    modalities: list[str] | None = None
    chat_template: str | None = Field(None, description="The name of an airoboros template, instead of the model's.")
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = Field(False, description="The last message is the beginning of the answer.")

    @model_validator(mode="before")
    @classmethod
    def _only_as_in_chats(cls, given: Any) -> Any:
        return _honoured(given, ONLY_AS_IN_CHATS)

    @model_validator(mode="after")
    def _together(self) -> ChatBody:
        if self.functions is not None or self.function_call is not None:
            raise ValueError("functions and function_call are OpenAI's old form; use tools and tool_choice")
        if self.modalities not in (None, ["text"]):
            raise ValueError('modalities must be ["text"]; the models served here write text')
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise ValueError("tool_choice is only allowed with tools")
        if self.continue_final_message:
            self._check_final()
        return self

    def _check_final(self) -> None:
        if self.add_generation_prompt and "add_generation_prompt" in self.model_fields_set:
            raise ValueError("continue_final_message goes on with a message, and add_generation_prompt begins one")
        last = self.messages[-1]
        if last.role != "assistant" or not last.content or "tool_calls" in (last.model_extra or {}):
            raise ValueError("continue_final_message needs a last message of the assistant's with a text")

    @property
    def speaks_of_calls(self) -> bool:
        """Whether there are tools, or calls in the messages."""
        return bool(self.tools) or any(m.role == "tool" or "tool_calls" in (m.model_extra or {}) for m in self.messages)
