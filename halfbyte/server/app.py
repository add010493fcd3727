"""The application: every face over the same models."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from halfbyte.server import admin, lifecycle, metrics, problems, shared_routes, vllm
from halfbyte.server.api_document import FAILURES
from halfbyte.server.auth import AskForKey, Keys
from halfbyte.server.limits import LimitBodies, LimitConcurrency, LimitRate
from halfbyte.server.logs import LogRequests
from halfbyte.server.metrics import CountAnswers, Metrics
from halfbyte.server.observed import Observers
from halfbyte.server.openai import chat, completions, embeddings, models_route, responses
from halfbyte.server.page import route as page
from halfbyte.server.tgi import routes as tgi
from halfbyte.server.traces import KeepParent, Traces

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from halfbyte.server.models import Models
    from halfbyte.server.settings import ServerSettings


def create_app(settings: ServerSettings, models: Models) -> FastAPI:
    """An ASGI application; its lifespan loads the models and ends their engines."""

    traces = None if settings.otlp_endpoint is None else Traces(settings.otlp_endpoint)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await models.start()
        try:
            yield
        finally:
            await models.stop()
            if traces is not None:
                await asyncio.to_thread(traces.close)

    app = FastAPI(
        title="halfbyte",
        version=version("halfbyte"),
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load scripts from another host
        redoc_url=None,
        responses=FAILURES,
    )
    problems.install(app)
    openai = (models_route, completions, chat, responses, embeddings)
    for face in (*openai, shared_routes, vllm, tgi, page):
        app.include_router(face.router(models, settings))
    figures = Metrics(models)
    models.watch(Observers(figures, log_prompts=settings.log_prompts, traces=traces))
    for operation in (lifecycle.router(models), metrics.router(figures), admin.router(models, settings)):
        app.include_router(operation)
    add_middleware(app, settings, figures)
    return app


def add_middleware(app: FastAPI, settings: ServerSettings, figures: Metrics) -> None:
    """What every request goes through. Innermost first; each pure ASGI: BaseHTTPMiddleware would copy every token."""
    app.add_middleware(
        LimitBodies,
        max_bytes=settings.max_body_bytes,
        max_depth=settings.max_json_depth,
        seconds=settings.body_seconds,
    )
    app.add_middleware(LimitConcurrency, most=settings.max_concurrent)
    if settings.rate_limit is not None:
        app.add_middleware(LimitRate, rate=settings.rate_limit)
    app.add_middleware(AskForKey, keys=Keys(settings.keys), admin_keys=Keys(settings.admin_keys))
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    if settings.otlp_endpoint is not None:
        app.add_middleware(KeepParent)
    app.add_middleware(CountAnswers, metrics=figures)
    app.add_middleware(LogRequests)
