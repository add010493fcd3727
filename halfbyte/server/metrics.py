"""GET /metrics: what Prometheus reads, under vLLM's names and with its buckets, so that its dashboards work here.

Counters that an engine keeps, such as those of the prefix cache, begin again at 0 when it is started again after a
crash; Prometheus' `rate` takes that for what it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import accumulate
from typing import TYPE_CHECKING

from fastapi import APIRouter, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from halfbyte.engine.stats import PASS_SIZES, Stats

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from halfbyte.engine.link import Standing
    from halfbyte.server.models import Models
    from halfbyte.server.observed import Finished

# vLLM's, in seconds
FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
               80.0, 160.0, 640.0, 2560.0)  # fmt: skip
NEXT_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
REQUEST = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
           1920.0, 7680.0)  # fmt: skip
TOKENS = tuple(m * 10**e for e in range(6) for m in (1, 2, 5))  # vLLM ends at the context's length
COUNTS = (1, 2, 5, 10, 20)
LABELS = ("model_name", "engine")  # vLLM numbers the engines of a model too

Figure = tuple[str, str, Callable[[Stats], float]]
GAUGES: tuple[Figure, ...] = (
    ("num_requests_running", "Requests in model execution batches.", lambda s: s.running),
    ("num_requests_waiting", "Requests waiting to be processed.", lambda s: s.waiting),
    ("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent.", lambda s: s.blocks_used / (s.blocks or 1)),
)
COUNTERS: tuple[Figure, ...] = (
    ("prefix_cache_queries", "Tokens looked for in the prefix cache.", lambda s: s.queried_tokens),
    ("prefix_cache_hits", "Tokens found in the prefix cache.", lambda s: s.cached_tokens),
    ("num_preemptions", "Times that a sequence gave its blocks to others.", lambda s: s.preemptions),
    ("spec_decode_num_draft_tokens", "Tokens guessed by speculation.", lambda s: s.drafted_tokens),
    ("spec_decode_num_accepted_tokens", "Of these, right ones.", lambda s: s.accepted_tokens),
)


class Metrics:
    """The server's own registry, and everything in it."""

    def __init__(self, models: Models) -> None:
        self.registry = CollectorRegistry()
        for collect in (ProcessCollector, PlatformCollector, GCCollector):
            collect(registry=self.registry)
        self.registry.register(EngineFigures(models))
        self._prompt_tokens = self._counter("prompt_tokens", "Prefill tokens processed.")
        self._generation_tokens = self._counter("generation_tokens", "Generation tokens processed.")
        self._success = self._counter("request_success", "Requests that have ended, by why.", "finished_reason")
        self._first = self._histogram("time_to_first_token_seconds", "Arrival to first token.", FIRST_TOKEN)
        self._between = self._histogram("inter_token_latency_seconds", "Token to token.", NEXT_TOKEN)
        self._between_old = self._histogram("time_per_output_token_seconds", "Its older name.", NEXT_TOKEN)
        self._mean_token = self._histogram("request_time_per_output_token_seconds", "Mean of a request.", NEXT_TOKEN)
        self._whole = self._histogram("e2e_request_latency_seconds", "Arrival to end.", REQUEST)
        self._queue = self._histogram("request_queue_time_seconds", "Arrival to the first pass.", REQUEST)
        self._inference = self._histogram("request_inference_time_seconds", "First pass to end.", REQUEST)
        self._prefill = self._histogram("request_prefill_time_seconds", "First pass to first token.", REQUEST)
        self._decode = self._histogram("request_decode_time_seconds", "First token to last.", REQUEST)
        self._prompt_size = self._histogram("request_prompt_tokens", "Prompt tokens of a request.", TOKENS)
        self._answer_size = self._histogram("request_generation_tokens", "Generated tokens of a request.", TOKENS)
        self._max_tokens = self._histogram("request_params_max_tokens", "The parameter max_tokens.", TOKENS)
        self._most = self._histogram("request_max_num_generation_tokens", "Most tokens that were asked for.", TOKENS)
        self._n = self._histogram("request_params_n", "The parameter n.", COUNTS)
        self.http_requests = Counter(
            "http_requests", "Answers, by route and status.", ("handler", "method", "status"), registry=self.registry
        )
        self.http_seconds = Histogram(
            "http_request_duration_seconds", "Until the answer's end.", ("handler", "method"), registry=self.registry
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"vllm:{name}", text, (*LABELS, *labels), registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"vllm:{name}", text, LABELS, buckets=buckets, registry=self.registry)

    def token(self, model: str, engine: int, first: float | None, next: float | None) -> None:
        """A token came; see Sink."""
        labels = (model, str(engine))
        self._generation_tokens.labels(*labels).inc()
        if first is not None:
            self._first.labels(*labels).observe(first)
        if next is not None:
            self._between.labels(*labels).observe(next)
            self._between_old.labels(*labels).observe(next)

    def finished(self, request: Finished) -> None:
        """A request is over."""
        labels = (request.model, str(request.engine))
        self._success.labels(*labels, request.reason).inc()
        self._whole.labels(*labels).observe(request.ended - request.arrived)
        self._prompt_size.labels(*labels).observe(request.prompt_tokens)
        self._answer_size.labels(*labels).observe(request.completion_tokens)
        self._n.labels(*labels).observe(request.params.n)
        if request.params.max_tokens is not None:
            self._max_tokens.labels(*labels).observe(request.params.max_tokens)
            self._most.labels(*labels).observe(request.params.max_tokens)
        if request.begun is None or request.first_token is None or request.last_token is None:
            return
        self._prompt_tokens.labels(*labels).inc(request.prompt_tokens)
        self._queue.labels(*labels).observe(max(0.0, request.begun.at - request.arrived))
        self._inference.labels(*labels).observe(request.last_token - request.begun.at)
        self._prefill.labels(*labels).observe(request.first_token - request.begun.at)
        self._decode.labels(*labels).observe(request.last_token - request.first_token)
        if request.mean_token_seconds is not None:
            self._mean_token.labels(*labels).observe(request.mean_token_seconds)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self.registry)


class EngineFigures(Collector):
    """How the engines stand, asked when somebody reads the metrics."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """One family after the other, with every model in it."""
        engines = [
            ((model.name, str(number)), engine)
            for model in self._models.all()
            if model.adapter is None
            for number, engine in enumerate(model.engine.replicas)
        ]
        for name, text, read in GAUGES:
            gauge = GaugeMetricFamily(f"vllm:{name}", text, labels=LABELS)
            for labels, engine in engines:
                gauge.add_metric(labels, read(engine.stats))
            yield gauge
        for name, text, read in COUNTERS:
            counter = CounterMetricFamily(f"vllm:{name}", text, labels=LABELS)
            for labels, engine in engines:
                counter.add_metric(labels, read(engine.stats))  # type: ignore[no-untyped-call]
            yield counter
        yield _iterations(engines)
        yield from self._ours(engines)

    def _ours(self, engines: list[tuple[tuple[str, str], Standing]]) -> Iterator[Metric]:
        """What vLLM has no name for."""
        ready = GaugeMetricFamily("halfbyte:engine_ready", "Whether the engine takes requests.", labels=LABELS)
        restarts = CounterMetricFamily("halfbyte:engine_restarts", "Starts after a crash.", labels=LABELS)
        under_way = GaugeMetricFamily("halfbyte:requests_under_way", "Taken and not ended.", labels=LABELS)
        for labels, engine in engines:
            ready.add_metric(labels, float(engine.is_ready))
            restarts.add_metric(labels, engine.restarts)  # type: ignore[no-untyped-call]
            under_way.add_metric(labels, engine.unfinished)
        yield from (ready, restarts, under_way)


def _iterations(engines: list[tuple[tuple[str, str], Standing]]) -> Metric:
    """Tokens of a pass, counted where it is computed."""
    found = HistogramMetricFamily("vllm:iteration_tokens_total", "Tokens of a pass.", labels=LABELS)
    bounds = [*(str(float(size)) for size in PASS_SIZES), "+Inf"]
    for labels, engine in engines:
        counts = list(accumulate(engine.stats.pass_sizes))
        found.add_metric(labels, list(zip(bounds, counts, strict=True)), engine.stats.computed_tokens)  # type: ignore[no-untyped-call]
    return found


class CountAnswers:
    """ASGI middleware: counts and times the HTTP answers, by the route's pattern, of which there are not many."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin = time.monotonic()
        status = "none"  # it went away before there was one

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, send_on)
        finally:
            handler = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in METHODS else "other"
            self.metrics.http_requests.labels(handler, method, status).inc()
            self.metrics.http_seconds.labels(handler, method).observe(time.monotonic() - begin)


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def router(metrics: Metrics) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["operation"])

    @routes.get("/metrics", response_class=Response)
    async def read_metrics() -> Response:
        """Figures for Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return routes
