"""What one request, one client and all of them together may ask for. Whatever is too much is refused at the door."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from halfbyte.errors import ConfigError
from halfbyte.server.asgi import get_headers
from halfbyte.server.problems import ServerProblem, send_problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

RETRY_AFTER = 1  # seconds: an answer's place is free again that soon
MOST_CLIENTS = 10_000  # whose rates are remembered
STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # one that never ends goes to the end: no second look
NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
ONE_KIND = bytes.maketrans(b"{}", b"[]")
PERIODS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def is_too_deep(body: bytes, most: int) -> bool:
    """Whether JSON text has more than `most` brackets within each other. Linear in its length for any bytes."""
    if body.count(b"[") + body.count(b"{") <= most:
        return False
    brackets = STRING.sub(b"", body).translate(ONE_KIND, NOT_BRACKETS)
    for _ in range(most):
        brackets = brackets.replace(b"[]", b"")  # each time, the innermost pairs
    return b"[]" in brackets or brackets.count(b"[") > most


class LimitBodies:
    """ASGI middleware: hands on a request's body once it is there, unless it is too long, too deep or too slow.

    The length is checked before a byte is read, where it is given, and again as they come.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_depth: int, seconds: float) -> None:
        """seconds: for the body to arrive."""
        self.app = app
        self.max_bytes, self.max_depth, self.seconds = max_bytes, max_depth, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self._check_length(scope)
            body = await asyncio.wait_for(self._read(receive), self.seconds)
            if body is None:
                return  # the client has gone
            if is_too_deep(body, self.max_depth):
                message = f"the body's JSON is nested more than {self.max_depth} deep"
                raise ServerProblem(400, message, code="too_deep")
        except TimeoutError:
            problem = ServerProblem(408, f"the body did not arrive within {self.seconds:g} s", code="timeout")
            await _refuse_and_close(problem, scope, receive, send)
            return
        except ServerProblem as problem:
            await _refuse_and_close(problem, scope, receive, send)
            return
        await self.app(scope, _replay(body, receive), send)

    def _check_length(self, scope: Scope) -> None:
        lengths = set(get_headers(scope, b"content-length"))
        if not lengths:
            return
        length = lengths.pop()
        if lengths or not re.fullmatch(rb"[0-9]{1,18}", length):
            raise ServerProblem(400, "Content-Length is not one whole number", code="invalid_header")
        if int(length) > self.max_bytes:
            raise self._too_long()

    async def _read(self, receive: Receive) -> bytes | None:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part = message.get("body", b"")
            size += len(part)
            if size > self.max_bytes:
                raise self._too_long()
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    def _too_long(self) -> ServerProblem:
        return ServerProblem(
            413, f"the body is over {self.max_bytes} bytes (--max-body-size)", code="request_too_large"
        )


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def receive_again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


async def _refuse_and_close(problem: ServerProblem, scope: Scope, receive: Receive, send: Send) -> None:
    """The rest of the body is not read: on this connection nothing can follow it."""
    problem.headers["Connection"] = "close"
    await send_problem(problem, scope, receive, send)


def asks_for_work(scope: Scope) -> bool:
    """Whether a request is one that limits count: those that only look at something are not."""
    return bool(scope["type"] == "http" and scope["method"] == "POST")


class LimitConcurrency:
    """ASGI middleware: 429 for a request that would be one too many at once."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app = app
        self.most = most
        self.count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if not asks_for_work(scope):
            await self.app(scope, receive, send)
            return
        if self.count >= self.most:
            message = f"{self.count} requests are being answered, the most that are taken; try again later"
            await _refuse(message, RETRY_AFTER, "too_many_requests", scope, receive, send)
            return
        self.count += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.count -= 1


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests in so many seconds."""

    count: float
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Rate:
        """From `10/s`, `600/m`, `5000/h`. Raises ConfigError."""
        match = re.fullmatch(r"(\d{1,9})/([smh])", text.strip())
        if match is None or int(match[1]) == 0:
            raise ConfigError(f"rate limit {text!r}: write it as 10/s, 600/m or 5000/h")
        return cls(int(match[1]), PERIODS[match[2]])


@dataclass(slots=True)
class Bucket:
    """Tokens that come back with time; a request takes one."""

    tokens: float
    at: float


class LimitRate:
    """ASGI middleware: 429 for a key that asks more often than it may; without keys, for a client's address.

    A token bucket: all requests of a period may come at once, and then each as its place comes back.
    """

    def __init__(self, app: ASGIApp, rate: Rate) -> None:
        self.app = app
        self.rate = rate
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if not asks_for_work(scope):
            await self.app(scope, receive, send)
            return
        key = scope.get("halfbyte.key")
        wait = self.take(f"key {key.name}" if key else (scope.get("client") or ("-",))[0], time.monotonic())
        if wait > 0:
            message = f"more than {self.rate.count:g} requests in {self.rate.seconds:g} s; try again in {wait:.1f} s"
            await _refuse(message, math.ceil(wait), "rate_limit_exceeded", scope, receive, send)
            return
        await self.app(scope, receive, send)

    def take(self, client: str, now: float) -> float:
        """Count a request: 0, or the seconds until there is room for it."""
        back = self.rate.count / self.rate.seconds  # tokens a second
        bucket = self._buckets.setdefault(client, Bucket(self.rate.count, now))
        self._buckets.move_to_end(client)
        if len(self._buckets) > MOST_CLIENTS:
            self._buckets.popitem(last=False)  # who has not asked for the longest time
        bucket.tokens = min(self.rate.count, bucket.tokens + (now - bucket.at) * back)
        bucket.at = now
        if bucket.tokens < 1:
            return (1 - bucket.tokens) / back
        bucket.tokens -= 1
        return 0.0


async def _refuse(message: str, after: int, code: str, scope: Scope, receive: Receive, send: Send) -> None:
    problem = ServerProblem(429, message, "rate_limit_error", code)
    problem.headers["Retry-After"] = str(after)
    await send_problem(problem, scope, receive, send)
