"""API keys: who may ask. Every route asks for one, but for those that tell a load balancer whether we live."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from halfbyte.errors import ConfigError
from halfbyte.server.asgi import get_headers
from halfbyte.server.page.route import is_visit, page_response
from halfbyte.server.problems import ServerProblem, send_problem

if TYPE_CHECKING:
    from collections.abc import Container, Iterable
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send

OPEN_PATHS = frozenset({"/health", "/ping"})
ADMIN_PATHS = ("/admin/", "/v1/load_lora_adapter", "/v1/unload_lora_adapter")  # ask for an admin key, and no other
ENVIRONMENT, ADMIN_ENVIRONMENT = "HALFBYTE_API_KEY", "HALFBYTE_ADMIN_KEY"
SECRET = re.compile(r"[!-~]+")  # what a header can carry, without white space


@dataclass(frozen=True, slots=True)
class Key:
    """A secret, and a name for logs and limits."""

    secret: str = field(repr=False)
    name: str


class Keys:
    """The keys that are taken. Held and compared as digests, whose lengths are all the same."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._salt = secrets.token_bytes(32)
        self._keys = [(self._digest(key.secret.encode()), key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, secret: bytes) -> Key | None:
        """The key with this secret. Takes as long whichever it is, if any."""
        digest, found = self._digest(secret), None
        for known, key in self._keys:
            if hmac.compare_digest(known, digest):
                found = key
        return found

    def _digest(self, secret: bytes) -> bytes:
        return hashlib.blake2b(secret, key=self._salt, digest_size=32).digest()


def read_keys(given: Iterable[str] = (), file: Path | None = None, environment: str = ENVIRONMENT) -> tuple[Key, ...]:
    """Keys of options, of a file (one a line, a name may follow; # begins a remark) and of an environment variable.

    Raises ConfigError for a file that cannot be read or holds none, and for what cannot be a key.
    """
    keys = [Key(secret, f"key-{number}") for number, secret in enumerate(given, start=1)]
    if file is not None:
        keys += _read_file(file)
    found = os.environ.get(environment)
    if found:
        keys.append(Key(found, "environment"))
    for key in keys:
        if not SECRET.fullmatch(key.secret):
            raise ConfigError(f"API key {key.name}: it must be printable ASCII without spaces, and not empty")
    if len({key.secret for key in keys}) < len(keys):
        raise ConfigError("an API key is given twice; which of its names is meant?")
    return tuple(keys)


def _read_file(file: Path) -> list[Key]:
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: the API keys cannot be read: {error}") from error
    keys = []
    for number, line in enumerate(lines, start=1):
        secret, _, name = line.strip().partition(" ")
        if secret and not secret.startswith("#"):
            keys.append(Key(secret, name.strip() or f"{file.name}:{number}"))
    if not keys:
        raise ConfigError(f"{file} holds no API key; write one a line, after it a name if you like")
    return keys


class AskForKey:
    """ASGI middleware: 401 without one of the keys as a bearer token. scope["halfbyte.key"] is the Key that came.

    Open are /health and /ping, and `open_files`: the chat page's own files, which are the same for everybody and in
    every copy of this package; a browser cannot send a header when it is pointed at a page, and all that the page
    shows it fetches with the key. Without keys every path is open, but admin paths never are.
    """

    def __init__(self, app: ASGIApp, keys: Keys, admin_keys: Keys, open_files: Container[str] = ()) -> None:
        self.app = app
        self.keys, self.admin_keys, self.open_files = keys, admin_keys, open_files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})  # nothing here speaks it
            return
        try:
            self._admit(scope)
        except ServerProblem as problem:
            if is_visit(scope):  # a browser cannot send a key with a visit: the page asks for it
                await page_response(401)(scope, receive, send)
                return
            await send_problem(problem, scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _admit(self, scope: Scope) -> None:
        """Raise unless the request may pass."""
        path = scope["path"]
        if path in OPEN_PATHS or (scope["method"] in ("GET", "HEAD") and path in self.open_files):
            return
        is_admin = path.startswith(ADMIN_PATHS)
        if is_admin and not self.admin_keys:
            raise ServerProblem(403, "this server was started without an admin key", "permission_error", "no_admin_key")
        keys = self.admin_keys if is_admin else self.keys
        if not keys:
            return
        values = get_headers(scope, b"authorization")
        scheme, _, secret = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
        key = keys.find(secret.strip(b" ")) if scheme.lower() == b"bearer" else None
        if key is None:
            what = "admin key" if is_admin else "API key"
            message = f"no valid {what} came with the request; send the header Authorization: Bearer KEY"
            problem = ServerProblem(401, message, "authentication_error", "invalid_api_key")
            problem.headers["WWW-Authenticate"] = "Bearer"
            raise problem
        scope["halfbyte.key"] = key
