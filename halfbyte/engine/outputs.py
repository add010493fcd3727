"""What a request gives back, under vLLM's names."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

    from halfbyte.errors import HalfbyteError

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class Logprob:
    """How likely a token was: the natural logarithm of its probability, by the network alone, before any parameter."""

    logprob: float
    rank: int  # 1 is the likeliest
    decoded_token: str | None = None


LogprobsOfStep = dict[int, Logprob]  # by token id: the token itself first, then the likeliest


@dataclass(frozen=True, slots=True)
class Begun:
    """That a request's prompt began to be read."""

    at: float  # time.monotonic(), a clock that all processes of a machine share
    cached_tokens: int  # of the prompt, that were found in the prefix cache
    engine: int = 0  # which replica reads it


@dataclass(slots=True)  # not frozen, which would treble the cost of making one
class Delta:
    """One step of a streamed answer. The texts of all steps, joined, are the answer's text."""

    text: str  # may be empty: half of a character, or what may yet become a stop string, is held back
    token_id: int
    finish_reason: FinishReason | None = None  # set on the last step
    stop_reason: int | str | None = None  # the stop string or stop token id that ended it, if one did
    index: int = 0  # which of the request's answers
    logprobs: LogprobsOfStep | None = None
    prompt_logprobs: list[LogprobsOfStep | None] | None = None  # with the first step of answer 0, if asked for
    begun: Begun | None = field(default=None, compare=False)  # with the first step of answer 0

    def __reduce__(self) -> tuple[type[Delta], tuple[object, ...]]:
        """Each token crosses a pipe as one of these: this takes 0.4 of the time that a dataclass's own way does."""
        return Delta, _values(self)


_values = attrgetter(*Delta.__slots__)


@dataclass(slots=True)
class CompletionOutput:
    """One answer. `token_ids` holds the token that ended it, `text` does not (unless asked for)."""

    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    logprobs: list[LogprobsOfStep] | None = None
    cumulative_logprob: float | None = None


@dataclass(slots=True)
class RequestOutput:
    """A prompt and its answers. `prompt` is None if only token ids were given."""

    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput] = field(default_factory=list)
    finished: bool = True
    prompt_logprobs: list[LogprobsOfStep | None] | None = None  # of each token after the first, which has none
    error: HalfbyteError | None = None  # why it was not answered, or not to the end
    # of the prompt, found in the prefix cache; None: it was not begun. Two equal answers may differ in it.
    num_cached_tokens: int | None = field(default=None, compare=False)
    request_id: str = field(default="", compare=False)


@dataclass(slots=True)
class EmbeddingOutput:
    """A prompt and its embedding, float32 [D]."""

    prompt: str | None
    prompt_token_ids: list[int]
    embedding: torch.Tensor

    @property
    def outputs(self) -> Embedded:
        """The same as vLLM has it."""
        return Embedded(self.embedding.tolist())


@dataclass(frozen=True, slots=True)
class Embedded:
    """An embedding as a list of numbers."""

    embedding: list[float]


@dataclass(slots=True)
class ScoringOutput:
    """How alike two texts are: the cosine of the angle between their embeddings."""

    score: float

    @property
    def outputs(self) -> ScoringOutput:
        """Where vLLM has the score."""
        return self
