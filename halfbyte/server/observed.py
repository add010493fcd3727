"""What happens to each request in an engine, told to metrics, log and trace in one place, for all faces."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from halfbyte.engine.outputs import Delta
from halfbyte.server import logs

if TYPE_CHECKING:
    from collections.abc import Callable

    from halfbyte.engine.outputs import Begun
    from halfbyte.engine.prompt import ReadPrompt
    from halfbyte.engine.sampling_params import SamplingParams
    from halfbyte.server.traces import Traces


@dataclass(slots=True)
class Finished:
    """A request from its arrival to its end. Moments are of time.monotonic(); None: it never came so far."""

    model: str
    params: SamplingParams
    prompt_tokens: int
    arrived: float
    reason: str = "abort"  # stop, length, abort or error
    ended: float = 0.0
    begun: Begun | None = None
    engine: int = 0  # which of a model's engines has it
    first_token: float | None = None
    last_token: float | None = None
    completion_tokens: int = 0

    @property
    def mean_token_seconds(self) -> float | None:
        """From token to token, of the answer as a whole; None for fewer than two."""
        if self.first_token is None or self.last_token is None or self.completion_tokens < 2:
            return None
        return (self.last_token - self.first_token) / (self.completion_tokens - 1)


class Sink(Protocol):
    """Wants to know."""

    def token(self, model: str, engine: int, first: float | None, next: float | None) -> None:
        """A token came: seconds since the arrival, for a request's first; since its answer's last, if there is one."""

    def finished(self, request: Finished) -> None:
        """It is over."""


@dataclass(slots=True)
class Watch:
    """An observer of one request (see halfbyte.engine.answer_stream)."""

    request: Finished
    sink: Sink
    on_end: Callable[[Finished], None]
    _last: dict[int, float] = field(default_factory=dict)  # when an answer's last token came, by its index
    _ended: int = 0  # answers that have
    _over: bool = False

    def took(self, result: Any) -> None:
        """A result came from the engine."""
        if isinstance(result, Delta):
            self._took_token(result)
        else:
            self._end("error" if isinstance(result, Exception) else "stop")

    def began_again(self) -> None:
        """Tokens are counted anew; the moments of the first attempt stay, for it is they that were waited for."""
        self.request.completion_tokens = self._ended = 0
        self._last.clear()

    def closed(self) -> None:
        """Nobody listens any more."""
        self._end("abort")

    def _took_token(self, delta: Delta) -> None:
        now, request = time.monotonic(), self.request
        last = self._last.get(delta.index)
        first = now - request.arrived if request.first_token is None else None
        if delta.begun is not None:
            request.engine = delta.begun.engine
        self.sink.token(request.model, request.engine, first, None if last is None else now - last)
        request.first_token = request.first_token or now
        self._last[delta.index] = request.last_token = now
        request.completion_tokens += 1
        request.begun = request.begun or delta.begun
        if delta.finish_reason:
            self._ended += 1
            if self._ended == request.params.drawn:
                self._end(delta.finish_reason)

    def _end(self, reason: str) -> None:
        if self._over:
            return
        self._over = True
        self.request.reason, self.request.ended = reason, time.monotonic()
        self.sink.finished(self.request)
        self.on_end(self.request)


class Observers:
    """Makes a Watch for each request of a model; `AsyncEngine.observe` is one of these, bound to a name."""

    def __init__(self, sink: Sink, *, log_prompts: bool = False, traces: Traces | None = None) -> None:
        self._sink = sink
        self._traces = traces
        self._log_prompts = log_prompts

    def watch(self, model: str, read: ReadPrompt, params: SamplingParams) -> Watch:
        """Begin to watch a request that is being queued."""
        request = Finished(model, params, len(read.token_ids), time.monotonic())
        logs.note(model=model, prompt_tokens=request.prompt_tokens)
        fields = logs.FIELDS.get()
        if self._log_prompts:
            text = read.text if read.text is not None else f"tokens {read.token_ids}"
            logs.LOG.info("prompt", extra={"fields": {"request_id": logs.request_id(), "prompt": text}})

        record = self._traces.recorder(fields or {}) if self._traces else None

        def on_end(request: Finished) -> None:
            if record is not None:
                record(request)
            if fields is not None:  # it may end in another context than the request's own
                fields["completion_tokens"] = fields.get("completion_tokens", 0) + request.completion_tokens
                fields["finish_reason"] = request.reason

        return Watch(request, self._sink, on_end)
