"""What a request gives back, under vLLM's names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Delta:
    """One step of a streamed answer. The texts of all steps, joined, are the answer's text."""

    text: str  # may be empty: half of a character, or what may yet become a stop string, is held back
    token_id: int
    finish_reason: FinishReason | None = None  # set on the last step
    stop_reason: int | str | None = None  # the stop string or stop token id that ended it, if one did


@dataclass(slots=True)
class CompletionOutput:
    """One answer. `token_ids` holds the token that ended it, `text` does not (unless asked for)."""

    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None


@dataclass(slots=True)
class RequestOutput:
    """A prompt and its answers. `prompt` is None if only token ids were given."""

    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput] = field(default_factory=list)
    finished: bool = True
