"""One line for each request, with its id; no secret ever, no prompt unless asked for."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import time
import traceback
import uuid
from contextvars import ContextVar
from logging.handlers import QueueHandler, QueueListener
from queue import Full, Queue
from typing import TYPE_CHECKING, Any, Literal

from halfbyte.server.asgi import get_header, with_headers

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOG = logging.getLogger("halfbyte.server")
ACCESS = logging.getLogger("halfbyte.access")
QUIET_PATHS = frozenset({"/health", "/ping", "/ready", "/metrics"})  # asked for every few seconds, by machines
VALID_ID = re.compile(rb"[A-Za-z0-9._:\-]{1,128}")  # nothing that could be taken for another line or field
WAITING_LINES = 10_000  # more are dropped while whoever reads the log does not

LogFormat = Literal["text", "json"]

FIELDS: ContextVar[dict[str, Any] | None] = ContextVar("fields", default=None)  # of the request that is being answered


def note(**fields: Any) -> None:
    """Add fields to the line of the request that is being answered; numbers are summed. Outside of one: nothing."""
    noted = FIELDS.get()
    if noted is None:
        return
    for name, value in fields.items():
        if isinstance(value, int) and name in noted:
            noted[name] += value
        else:
            noted[name] = value


def request_id() -> str | None:
    """Of the request that is being answered."""
    return (FIELDS.get() or {}).get("request_id")


class LogRequests:
    """ASGI middleware, the outermost: gives each request its id, and writes its line when it has been answered.

    X-Request-Id is kept if it is made of letters, digits and . _ : - only, at most 128 of them; else a new one is made.
    The answer carries it too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin = time.monotonic()
        given = get_header(scope, b"x-request-id")
        found = given if given is not None and VALID_ID.fullmatch(given) else uuid.uuid4().hex.encode()
        fields: dict[str, Any] = {
            "request_id": found.decode(),
            "client": (scope.get("client") or ("-",))[0],
            "method": scope["method"],
            "path": scope["path"],
            "status": None,
        }

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                fields["status"] = message["status"]
                message = with_headers(message, (b"x-request-id", found))
            await send(message)

        token = FIELDS.set(fields)
        try:
            await self.app(scope, receive, send_on)
        finally:
            FIELDS.reset(token)
            key = scope.get("halfbyte.key")
            fields |= {"seconds": round(time.monotonic() - begin, 6)} | ({"key": key.name} if key else {})
            level = logging.DEBUG if scope["path"] in QUIET_PATHS else logging.INFO
            ACCESS.log(level, "request", extra={"fields": fields})


class Lines(logging.Formatter):
    """A record as one line, whatever it holds: JSON, or words for people."""

    def __init__(self, style: LogFormat, *, with_texts: bool = False) -> None:
        """with_texts: also what exceptions say, in which there may be parts of prompts."""
        super().__init__()
        self._line_format = style
        self._with_texts = with_texts

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"
        found: dict[str, Any] = {"time": moment, "level": record.levelname.lower(), "logger": record.name}
        found["message"] = record.getMessage()
        found |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            found["exception"] = self._describe(record.exc_info[1])
        if self._line_format == "json":
            return json.dumps(found, default=str)
        head = f"{moment} {found['level']:7} {_plain(found['message'])}"
        rest = {name: found[name] for name in found if name not in ("time", "level", "logger", "message")}
        return " ".join([head, *(f"{name}={_plain(value)}" for name, value in rest.items())])

    def _describe(self, error: BaseException) -> str:
        place = "".join(traceback.format_tb(error.__traceback__))
        return f"{place}{type(error).__name__}" + (f": {error}" if self._with_texts else "")


class DroppingHandler(QueueHandler):
    """Hands records to a thread that writes them, so that a full pipe behind stderr stops no answer."""

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue a record, or drop it if too many wait."""
        with contextlib.suppress(Full):  # there is nobody to tell
            self.queue.put_nowait(record)

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """As it is: it stays in this process."""
        return record


def configure(style: LogFormat, *, level: str = "info", with_texts: bool = False) -> QueueListener:
    """Make the loggers of the server and of what it runs on write such lines to stderr.

    Stop what this returns at the end.
    """
    queue: Queue[logging.LogRecord] = Queue(WAITING_LINES)
    writer = logging.StreamHandler()
    writer.setFormatter(Lines(style, with_texts=with_texts))
    for name in ("halfbyte", "uvicorn", "opentelemetry", "ray"):
        logger = logging.getLogger(name)
        logger.handlers = [DroppingHandler(queue)]
        logger.setLevel(level.upper())
        logger.propagate = False
    listener = QueueListener(queue, writer)
    listener.start()
    return listener


def _plain(value: Any) -> str:
    """A value as a word; in quotation marks, with escapes, if it is not one."""
    text = str(value)
    return text if re.fullmatch(r"[\w./:@+, \-();'\[\]]*", text, re.ASCII) and text else json.dumps(text)
