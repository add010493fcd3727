"""uvicorn, set up for us."""

from __future__ import annotations

from typing import TYPE_CHECKING

import uvicorn

from halfbyte.server.app import create_app

if TYPE_CHECKING:
    from halfbyte.server.models import Models
    from halfbyte.server.settings import ServerSettings


def serve(settings: ServerSettings, models: Models) -> None:
    """Serve until SIGTERM or SIGINT. Raises what prevents the models from loading, or OSError for the address."""
    make_server(settings, models).run()


def make_server(settings: ServerSettings, models: Models) -> uvicorn.Server:
    """The server, ready to run."""
    config = uvicorn.Config(
        create_app(settings, models),
        host=settings.host,
        port=settings.port,
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
        access_log=False,
        server_header=False,
        lifespan="on",
    )
    return uvicorn.Server(config)
