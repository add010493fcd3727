"""The bodies of requests, with TGI's bounds and defaults."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_BEST_OF = 16
MOST_STOPS = 64  # TGI's own default is 4
MOST_TOP_TOKENS = 20  # TGI's own default is 5


class Grammar(BaseModel):
    """What the answer must keep to. value: a JSON schema, or its text; a regular expression; {name, schema}."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)
    type: Literal["json", "regex", "json_schema"]
    value: Any

    @model_validator(mode="after")
    def _fits(self) -> Grammar:
        if self.type == "regex" and not isinstance(self.value, str):
            raise ValueError("grammar of type regex must have a text as its value")
        if self.type == "json_schema" and not (isinstance(self.value, dict) and "schema" in self.value):
            raise ValueError("grammar of type json_schema must have a value that holds schema")
        return self

    def as_parameter(self) -> dict[str, Any]:
        """As a parameter of SamplingParams."""
        if self.type == "regex":
            return {"regex": self.value}
        return {"json_schema": self.value["schema"] if self.type == "json_schema" else self.value}


class Parameters(BaseModel):
    """How the answer is to be. A name that is none of these is refused: TGI would let it be."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    adapter_id: str | None = Field(None, description="An adapter that is served.")
    best_of: int | None = Field(None, ge=1, le=MOST_BEST_OF)
    decoder_input_details: bool | None = None
    details: bool | None = None
    do_sample: bool | None = None
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    grammar: Grammar | None = None
    max_new_tokens: int | None = Field(100, ge=1)
    repetition_penalty: float | None = Field(None, gt=0)
    return_full_text: bool | None = None
    seed: int | None = Field(None, gt=0, lt=2**63)
    stop: list[str] | None = Field(None, max_length=MOST_STOPS)
    temperature: float | None = Field(None, gt=0, le=100)
    top_k: int | None = Field(None, gt=0, lt=2**31)
    top_n_tokens: int | None = Field(None, gt=0, le=MOST_TOP_TOKENS)
    top_p: float | None = Field(None, gt=0, le=1)
    truncate: int | None = Field(None, gt=0)
    typical_p: float | None = Field(None, gt=0, le=1)
    watermark: bool | None = None

    @model_validator(mode="after")
    def _together(self) -> Parameters:
        if self.watermark:
            raise ValueError("watermark: answers are not watermarked here; leave it out")
        if (self.best_of or 1) > 1 and not self.samples:
            raise ValueError("best_of > 1 needs sampling: set do_sample")
        if (self.best_of or 1) > 1 and self.seed is not None:
            raise ValueError("seed must not be set when best_of > 1")
        return self

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn; otherwise the likeliest is taken."""
        warped = (self.temperature or 1.0) != 1.0 or self.top_k is not None
        return bool(self.do_sample) or warped or (self.top_p or 1.0) < 1 or (self.typical_p or 1.0) < 1


class GenerateBody(BaseModel):
    """POST /generate, /generate_stream."""

    model_config = ConfigDict(strict=True, extra="ignore")
    inputs: str = Field(min_length=1)
    parameters: Parameters | None = None

    @property
    def asked(self) -> Parameters:
        """The parameters, or their defaults."""
        return self.parameters or Parameters.model_validate({})


class CompatGenerateBody(GenerateBody):
    """POST / and /invocations: stream says which of the two is meant."""

    stream: bool | None = None


class TokenizeBody(BaseModel):
    """POST /tokenize."""

    model_config = ConfigDict(strict=True, extra="ignore")
    inputs: str
    add_special_tokens: bool = True
