"""OpenTelemetry traces: a span for each request to an engine, sent to a collector over OTLP and HTTP.

Attributes have the names of OpenTelemetry's conventions for generative AI and, where those have none or others, of
vLLM's `llm_request` spans. A span holds no text. A caller's W3C traceparent makes it a part of the caller's trace, and
one that says that its trace is not recorded is believed. What the SDK reads from the environment holds here too:
OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER and the like.
"""

from __future__ import annotations

import os
import time
from contextvars import ContextVar
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from halfbyte.errors import ConfigError, IntegrationError
from halfbyte.server.asgi import get_header, get_headers

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from halfbyte.server.observed import Finished

PARENT: ContextVar[Any] = ContextVar("parent", default=None)  # of the request that is being answered
OPERATIONS = {"/v1/chat/completions": "chat", "/v1/responses": "chat", "/v1/embeddings": "embeddings"}
PATH = "/v1/traces"  # where collectors take traces
LAST_SECONDS = 5.0  # for spans to leave at the end


class Traces:
    """Makes the spans, and sends them from a thread of its own; a collector that is away holds nothing up."""

    def __init__(self, endpoint: str) -> None:
        """endpoint: the collector, such as http://localhost:4318. Raises ConfigError or IntegrationError."""
        address = full_address(endpoint)
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415  an extra
                OTLPSpanExporter,
            )
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        except ImportError as error:
            raise IntegrationError("--otlp-endpoint needs OpenTelemetry: pip install 'halfbyte[otel]'") from error
        name = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": "halfbyte"}
        self._provider: Any = TracerProvider(resource=Resource.create(name), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(address)))
        self._tracer = self._provider.get_tracer("halfbyte.server")

    def recorder(self, fields: dict[str, Any]) -> Callable[[Finished], None]:
        """Called in a request's context; what this gives makes the span of it when it has ended, in any context.

        fields: of the request's line in the log.
        """
        parent = PARENT.get()
        named = {
            "gen_ai.operation.name": OPERATIONS.get(fields.get("path", ""), "text_completion"),
            "gen_ai.request.id": fields.get("request_id"),
        }

        def record(request: Finished) -> None:
            self._record(request, parent, named)

        return record

    def close(self) -> None:
        """Send what there is, for some seconds at most: the SDK would try a collector that is away for longer."""
        ending = Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(LAST_SECONDS)

    def _record(self, request: Finished, parent: Any, named: dict[str, Any]) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode  # noqa: PLC0415  an extra

        clock = time.time_ns() - time.monotonic_ns()
        span = self._tracer.start_span(
            "llm_request",
            context=parent,
            kind=SpanKind.SERVER,
            attributes=attributes_of(request, named),
            start_time=clock + int(1e9 * request.arrived),
        )
        if request.reason == "error":
            span.set_status(Status(StatusCode.ERROR))
        span.end(clock + int(1e9 * request.ended))


def attributes_of(request: Finished, named: dict[str, Any]) -> dict[str, Any]:
    """What a span says beside what is `named`. Times are in seconds; what never came to be is left out."""
    params, begun, first, last = request.params, request.begun, request.first_token, request.last_token
    found: dict[str, Any] = {
        **named,
        "gen_ai.provider.name": "halfbyte",
        "gen_ai.request.model": request.model,
        "gen_ai.response.model": request.model,
        "gen_ai.request.max_tokens": params.max_tokens,
        "gen_ai.request.temperature": float(params.temperature),
        "gen_ai.request.top_p": float(params.top_p),
        "gen_ai.request.n": params.n,
        "gen_ai.response.finish_reasons": [request.reason],
        "gen_ai.usage.prompt_tokens": request.prompt_tokens,
        "gen_ai.usage.completion_tokens": request.completion_tokens,
        "gen_ai.usage.input_tokens": request.prompt_tokens,
        "gen_ai.usage.output_tokens": request.completion_tokens,
        "gen_ai.usage.num_sequences": params.drawn,
        "gen_ai.latency.e2e": request.ended - request.arrived,
    }
    if begun is not None and first is not None and last is not None:
        found |= {
            "gen_ai.usage.cached_tokens": begun.cached_tokens,
            "gen_ai.latency.time_in_queue": max(0.0, begun.at - request.arrived),
            "gen_ai.latency.time_to_first_token": first - request.arrived,
            "gen_ai.latency.time_in_model_prefill": first - begun.at,
            "gen_ai.latency.time_in_model_decode": last - first,
            "gen_ai.latency.time_in_model_inference": last - begun.at,
        }
    return {name: value for name, value in found.items() if value is not None}


def full_address(endpoint: str) -> str:
    """A collector's address with the path for traces, unless it has one."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--otlp-endpoint {endpoint}: it must be an address such as http://localhost:4318")
    return endpoint if parts.path.strip("/") else endpoint.rstrip("/") + PATH


class KeepParent:
    """ASGI middleware: reads the caller's traceparent and tracestate."""

    def __init__(self, app: ASGIApp) -> None:
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415  an extra
            TraceContextTextMapPropagator,
        )

        self.app = app
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        parent = get_header(scope, b"traceparent") if scope["type"] == "http" else None
        if parent is None:
            await self.app(scope, receive, send)
            return
        state = b",".join(get_headers(scope, b"tracestate"))
        carrier = {"traceparent": parent.decode("latin-1"), "tracestate": state.decode("latin-1")}
        token = PARENT.set(self._propagator.extract(carrier))
        try:
            await self.app(scope, receive, send)
        finally:
            PARENT.reset(token)
