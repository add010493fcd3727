"""API keys: who may ask. Every route asks for one, but for those that tell a load balancer whether we live."""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from halfbyte.errors import ConfigError
from halfbyte.server.problems import ServerProblem, send_problem

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send

OPEN_PATHS = frozenset({"/health", "/ping"})
ENVIRONMENT = "HALFBYTE_API_KEY"


@dataclass(frozen=True, slots=True)
class Key:
    """A secret, and a name for logs and limits."""

    secret: str = field(repr=False)
    name: str


class Keys:
    """The keys that are taken."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = [(key.secret.encode(), key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, secret: bytes) -> Key | None:
        """The key with this secret. Takes as long whichever it is, if any."""
        found = None
        for known, key in self._keys:
            if hmac.compare_digest(known, secret):
                found = key
        return found


def read_keys(given: Iterable[str] = (), file: Path | None = None) -> tuple[Key, ...]:
    """Keys of options, of a file (one a line, a name may follow; # begins a remark) and of HALFBYTE_API_KEY.

    Raises ConfigError for a file that cannot be read or holds none.
    """
    keys = [Key(secret, f"key-{number}") for number, secret in enumerate(given, start=1)]
    if file is not None:
        keys += _read_file(file)
    from_environment = os.environ.get(ENVIRONMENT)
    if from_environment and not keys:
        keys.append(Key(from_environment, "environment"))
    if any(not key.secret.strip() for key in keys):
        raise ConfigError("an API key is empty; it must have at least one character")
    return tuple(keys)


def _read_file(file: Path) -> list[Key]:
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: the API keys cannot be read: {error}") from error
    parts = [line.split(maxsplit=1) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not parts:
        raise ConfigError(f"{file} holds no API key; write one a line, after it a name if you like")
    return [Key(part[0], part[1].strip() if len(part) > 1 else f"key-{i}") for i, part in enumerate(parts, start=1)]


class AskForKey:
    """ASGI middleware: 401 without one of the keys as a bearer token. scope["halfbyte.key"] is the Key that came."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http" or not self.keys or scope["path"] in OPEN_PATHS:
            await self.app(scope, receive, send)
            return
        scheme, _, secret = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
        key = self.keys.find(secret.strip()) if scheme.lower() == b"bearer" else None
        if key is None:
            message = "no valid API key came with the request; send the header Authorization: Bearer KEY"
            problem = ServerProblem(401, message, "authentication_error", code="invalid_api_key")
            problem.headers["WWW-Authenticate"] = "Bearer"
            await send_problem(problem, scope, receive, send)
            return
        scope["halfbyte.key"] = key
        await self.app(scope, receive, send)
