"""uvicorn, set up for us."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

import uvicorn

from halfbyte.errors import ConfigError
from halfbyte.server import logs
from halfbyte.server.app import create_app
from halfbyte.server.lifecycle import DrainingServer
from halfbyte.server.patience import impatient

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from halfbyte.server.models import Models
    from halfbyte.server.settings import ServerSettings


def serve(settings: ServerSettings, models: Models) -> None:
    """Serve until SIGTERM or SIGINT. Raises what prevents the models from loading, or ConfigError for the address.

    The address is taken before the models are loaded, so that one that is in use is told at once; nobody is let in
    until they are.
    """
    lines = logs.configure(settings.log_format, level=settings.log_level, with_texts=settings.log_prompts)
    try:
        with bind(settings) as address:
            server = make_server(settings, models)
            try:
                server.run(sockets=[address])
            except SystemExit:  # uvicorn's way out where the application did not start
                if models.failure is None:
                    raise
                raise models.failure from None
    finally:
        lines.stop()


def bind(settings: ServerSettings) -> socket.socket:
    """A socket of the address, on which nobody is heard yet. Raises ConfigError if it cannot be had."""
    host, port = settings.host, settings.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"--host {host}: {error.strerror or error}") from error
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as error:
        taken.close()
        raise ConfigError(f"--host {host} --port {port}: {error.strerror or error}") from error
    return taken


class ShortStartup:
    """ASGI wrapper: what keeps the application from starting is told by its one line, not by a traceback of ours."""

    def __init__(self, app: ASGIApp, models: Models) -> None:
        self.app = app
        self.models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Everything else goes through as it is."""
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return

        async def send_on(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed" and self.models.failure is not None:
                message = {**message, "message": str(self.models.failure)}
            await send(message)

        await self.app(scope, receive, send_on)


def make_server(settings: ServerSettings, models: Models) -> DrainingServer:
    """The server, ready to run."""
    config = uvicorn.Config(
        ShortStartup(create_app(settings, models), models),
        host=settings.host,
        port=settings.port,
        http=impatient(settings.header_seconds),
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
