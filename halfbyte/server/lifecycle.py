"""Living, being ready, and ending without breaking anything off."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from halfbyte.server.problems import RETRY_AFTER

if TYPE_CHECKING:
    import socket
    from types import FrameType

    from halfbyte.server.models import Models

LOG = logging.getLogger("halfbyte.server")
LAST_WORDS = 5.0  # seconds for streams that were ended to say so


def router(models: Models) -> APIRouter:
    """The routes that load balancers ask."""
    routes = APIRouter(tags=["operation"])
    unwell: dict[int | str, dict[str, Any]] = {503: {"description": "It is not."}}

    @routes.get("/health", response_class=Response, responses=unwell)
    async def health() -> Response:
        """Whether the server lives: 503 says that it will not get well by itself, and should be started again."""
        return Response(status_code=503 if models.are_lost else 200)

    @routes.get("/ping", response_class=Response, responses=unwell)
    async def ping() -> Response:
        """Whether it takes requests now: every model is loaded, and it is not about to stop."""
        return Response(status_code=200 if models.are_ready else 503)

    @routes.get("/ready", responses=unwell)
    async def ready() -> JSONResponse:
        """As /ping, and model by model."""
        found = {model.name: model.standing() for model in models.all()}
        headers = {} if models.are_ready else {"Retry-After": str(RETRY_AFTER)}
        return JSONResponse({"ready": models.are_ready, "models": found}, 200 if models.are_ready else 503, headers)

    return routes


class DrainingServer(uvicorn.Server):
    """uvicorn's server, which on SIGTERM or SIGINT takes no more requests, and lets those that it has taken end.

    Those that have not ended in time end with an error that says why; a stream, with an event that does. SIGTERM then
    leads to exit code 0. A second Ctrl-C waits for nothing.
    """

    def __init__(self, config: uvicorn.Config, models: Models, drain_seconds: float) -> None:
        config.timeout_graceful_shutdown = int(drain_seconds + LAST_WORDS)
        super().__init__(config)
        self._models = models
        self._drain_seconds = drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came. uvicorn would raise SIGTERM again at the end, and a clean end would look like a kill."""
        if sig == signal.SIGTERM:
            self.should_exit = True
        else:
            super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the door, and say where it is: with --port 0 nobody knows otherwise."""
        await super().startup(sockets)
        for listener in [each for server in getattr(self, "servers", ()) for each in server.sockets]:
            host, port = listener.getsockname()[:2]
            where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            LOG.info(f"listening on {'https' if self.config.is_ssl else 'http'}://{where}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the door, wait, and end."""
        LOG.info("stopping", extra={"fields": {"unfinished": self._models.unfinished}})
        draining = asyncio.ensure_future(self._models.drain(self._drain_seconds))
        try:
            await super().shutdown(sockets)
        finally:
            draining.cancel()
