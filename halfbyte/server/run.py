"""uvicorn, set up for us."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import uvicorn

from halfbyte.server import logs
from halfbyte.server.app import create_app
from halfbyte.server.lifecycle import DrainingServer

if TYPE_CHECKING:
    from halfbyte.server.models import Models
    from halfbyte.server.settings import ServerSettings


def serve(settings: ServerSettings, models: Models) -> None:
    """Serve until SIGTERM or SIGINT. Raises what prevents the models from loading, or OSError for the address."""
    lines = logs.configure(settings.log_format, level=settings.log_level, with_texts=settings.log_prompts)
    try:
        make_server(settings, models).run()
    finally:
        lines.stop()


def make_server(settings: ServerSettings, models: Models) -> DrainingServer:
    """The server, ready to run."""
    config = uvicorn.Config(
        create_app(settings, models),
        host=settings.host,
        port=settings.port,
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
        ssl_keyfile_password=settings.ssl_keyfile_password,
        ssl_ca_certs=None if settings.ssl_ca_certs is None else str(settings.ssl_ca_certs),
        ssl_cert_reqs=ssl.CERT_NONE if settings.ssl_ca_certs is None else ssl.CERT_REQUIRED,
        proxy_headers=bool(settings.forwarded_allow_ips),
        forwarded_allow_ips=settings.forwarded_allow_ips,
        timeout_keep_alive=settings.keep_alive_seconds,
        ws="none",
        log_config=None,
        access_log=False,  # ours has more in it
        server_header=False,
        lifespan="on",
    )
    return DrainingServer(config, models, settings.drain_seconds)
