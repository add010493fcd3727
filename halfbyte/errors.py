"""What a user can get wrong. Each message names the file, layer, field or line, and the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable


class Located(Protocol):
    """Something wrong at a place in a text; line and column count from 1."""

    @property
    def line(self) -> int:
        """Line."""

    @property
    def column(self) -> int:
        """Column, in characters."""


class HalfbyteError(Exception):
    """Base of every error that halfbyte raises on purpose; a command prints it in one line and exits with 1."""


class SourceError(HalfbyteError):
    """A model source cannot be found, fetched or trusted (missing path, hash mismatch, escaping path)."""


class CheckpointError(HalfbyteError):
    """Weights on disk are damaged or do not fit their config (truncated, missing, extra, wrong shape, not finite)."""


class ConfigError(HalfbyteError):
    """A model's config asks for something that is not supported, or contradicts itself."""


class TokenizerError(HalfbyteError):
    """A repository has no usable tokenizer or chat template."""


class QuantizeError(HalfbyteError):
    """Quantization was asked for something that the model, the data or the format does not allow."""


class GateError(QuantizeError):
    """A quantized model predicts so much worse than the float one that it is not to be called good."""


class OutputError(HalfbyteError):
    """The output cannot be written (already there, disk too small)."""


class PublishError(HalfbyteError):
    """A recipe, a card or a finished repository is not in order, or an upload was refused."""


class RequestError(HalfbyteError):
    """A generation request is not valid (sampling parameter out of range, prompt longer than the context)."""


class AdapterError(RequestError):
    """An adapter cannot be read, does not fit the model, or is not there."""


class QueueFullError(RequestError):
    """So many requests are waiting that another one is refused; it may be sent again later."""


class EngineStoppedError(HalfbyteError):
    """The engine's process has ended, or is about to, before the request was answered."""


class EvaluationError(HalfbyteError):
    """A measurement cannot be made of this text and these models (text too short, vocabularies differ)."""


class GenerationError(HalfbyteError):
    """The network gave something that no token can be chosen from (logits that are not finite)."""


class KernelError(HalfbyteError):
    """A kernel cannot be compiled or launched on this machine."""


class IntegrationError(HalfbyteError, ImportError):
    """Another program that halfbyte plugs into is absent, or not of a version that it knows."""


class PlanError(HalfbyteError):
    """A reWOO plan cannot be run. Holds every problem of the plan; `line` and `column` are the first one's."""

    def __init__(self, problems: Iterable[Located]) -> None:
        self.problems = sorted(problems, key=lambda problem: (problem.line, problem.column))
        self.line, self.column = self.problems[0].line, self.problems[0].column
        count = len(self.problems)
        title = "the plan cannot be run" if count == 1 else f"the plan cannot be run, for {count} reasons"
        super().__init__(title + ":\n" + "\n".join(str(problem) for problem in self.problems))


class ToolError(HalfbyteError):
    """A tool of a reWOO plan has failed. `retryable`: the same call may succeed later, after `wait` seconds."""

    def __init__(self, message: str, *, retryable: bool = False, wait: float = 0.0) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.wait = wait


class BlockedURL(ToolError):  # noqa: N818  the name says it
    """An address that a tool must not fetch: not http(s), not on the public internet, or in a disguise."""


class RunError(HalfbyteError):
    """A plan was stopped: a step failed, or a budget is used up. `trace` tells how far it came, and can be resumed."""

    def __init__(self, message: str, trace: Any = None) -> None:
        super().__init__(message)
        self.trace = trace


class TraceError(HalfbyteError):
    """A file is not the trace of a run, or belongs to another plan."""


class PromptError(HalfbyteError):
    """A prompt cannot be built, or a text in one of the prompt formats cannot be read.

    line, column: where in the text, from 1; None where there is no text, as when a prompt is built from parts.
    """

    def __init__(self, message: str, line: int | None = None, column: int | None = None) -> None:
        place = "" if line is None else f"line {line}, column {column}: "
        super().__init__(place + message)
        self.line, self.column = line, column
