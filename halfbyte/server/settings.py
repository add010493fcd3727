"""What `halfbyte serve` is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from halfbyte.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from halfbyte.server.auth import Key
    from halfbyte.server.limits import Rate
    from halfbyte.server.logs import LogFormat

LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Checked when it is made: ConfigError names the option, what it was and what it may be."""

    host: str = "127.0.0.1"  # "0.0.0.0" or "::" lets other machines in
    port: int = 8000  # 0: any that is free
    keys: tuple[Key, ...] = field(default=(), repr=False)  # one of them must come with each request; none: no key asked
    admin_keys: tuple[Key, ...] = field(default=(), repr=False)  # for loading and unloading; none: nobody may
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    ssl_keyfile_password: str | None = field(default=None, repr=False)
    ssl_ca_certs: Path | None = None  # clients must show a certificate that one of these has signed
    forwarded_allow_ips: str = ""  # proxies whose X-Forwarded-For and -Proto are believed; "": none
    cors_origins: tuple[str, ...] = ()  # other sites whose pages may ask; "*": any
    max_body_bytes: int = 4 << 20
    max_json_depth: int = 100
    header_seconds: float = 20.0  # for a request's line and headers to arrive
    body_seconds: float = 30.0  # for a body to arrive
    keep_alive_seconds: int = 5  # that a connection without a request is kept
    max_concurrent: int = 1024  # requests at once, of whatever kind asks for work
    rate_limit: Rate | None = None  # of each key; without keys, of each address
    drain_seconds: float = 30.0  # for requests to end when the server is to stop
    log_format: LogFormat = "text"
    log_level: str = "info"
    log_prompts: bool = False  # prompts, and what exceptions say, go to the log too
    otlp_endpoint: str | None = None  # of an OpenTelemetry collector, for traces; None: none are made
    max_batch_prompts: int = 1024  # of one request
    max_stored_responses: int = 1000  # of /v1/responses; the oldest goes

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port is {self.port}; it must be 0 (any that is free) to 65535")
        if (self.ssl_keyfile is None) != (self.ssl_certfile is None):
            raise ConfigError("TLS needs both --ssl-certfile and --ssl-keyfile")
        if self.ssl_ca_certs is not None and self.ssl_certfile is None:
            raise ConfigError("--ssl-ca-certs needs --ssl-certfile: client certificates are a part of TLS")
        for name in ("max_body_bytes", "max_json_depth", "max_concurrent", "keep_alive_seconds", "header_seconds",
                     "body_seconds", "max_stored_responses", "max_batch_prompts"):  # fmt: skip
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be more than 0")
        if self.drain_seconds < 0:
            raise ConfigError(f"drain_seconds is {self.drain_seconds}; it must be 0 or more")
        if self.log_level not in LEVELS:
            raise ConfigError(f"log_level is {self.log_level!r}; it must be one of {', '.join(LEVELS)}")
        for path in (self.ssl_certfile, self.ssl_keyfile, self.ssl_ca_certs):
            if path is not None and not path.is_file():
                raise ConfigError(f"{path}: there is no such file")
