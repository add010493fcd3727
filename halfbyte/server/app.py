"""The application: every face over the same models."""

from __future__ import annotations

from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI, Response

from halfbyte.server import problems
from halfbyte.server.auth import AskForKey, Keys
from halfbyte.server.openai import chat, completions, models_route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from halfbyte.server.models import Models
    from halfbyte.server.settings import ServerSettings


def create_app(settings: ServerSettings, models: Models) -> FastAPI:
    """An ASGI application; its lifespan loads the models and ends their engines."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await models.start()
        try:
            yield
        finally:
            await models.stop()

    app = FastAPI(
        title="halfbyte",
        version=version("halfbyte"),
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load scripts from another host
        redoc_url=None,
    )
    problems.install(app)
    for face in (models_route, completions, chat):
        app.include_router(face.router(models, settings))

    @app.get("/health", response_class=Response, tags=["operation"])
    async def health() -> Response:
        """Whether the server lives."""
        return Response()

    # Middleware, innermost first. Pure ASGI each: starlette's BaseHTTPMiddleware would copy every token.
    app.add_middleware(AskForKey, keys=Keys(settings.keys))
    return app
