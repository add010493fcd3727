"""What `halfbyte serve` is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from halfbyte.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from halfbyte.server.auth import Key


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Checked when it is made: ConfigError names the option, what it was and what it may be."""

    host: str = "127.0.0.1"  # "0.0.0.0" or "::" lets other machines in
    port: int = 8000  # 0: any that is free
    keys: tuple[Key, ...] = field(default=(), repr=False)  # one of them must come with each request; none: no key asked
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    max_batch_prompts: int = 1024  # of one request

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port is {self.port}; it must be 0 (any that is free) to 65535")
        if (self.ssl_keyfile is None) != (self.ssl_certfile is None):
            raise ConfigError("TLS needs both --ssl-certfile and --ssl-keyfile")
        for path in (self.ssl_certfile, self.ssl_keyfile):
            if path is not None and not path.is_file():
                raise ConfigError(f"{path}: there is no such file")
