"""What goes wrong, as a status and a body in the words of the face that was asked."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from halfbyte.errors import (
    EngineStoppedError,
    HalfbyteError,
    PromptError,
    QueueFullError,
    RequestError,
    TokenizerError,
)
from halfbyte.server.disconnect import ClientGone

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

LOG = logging.getLogger("halfbyte.server")
RETRY_AFTER = 1  # seconds after which a refused request may be sent again
CLIENT_GONE = 499  # nginx's number; nobody is there to read it


class ServerProblem(Exception):  # noqa: N818  an answer, not always an error of ours
    """An HTTP status and why, still without a face's shape. type, code, param: OpenAI's fields of these names."""

    def __init__(
        self,
        status: int,
        message: str,
        type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.type, self.code, self.param = status, message, type, code, param
        self.headers: dict[str, str] = {}


Wording = Callable[[ServerProblem], tuple[int, dict[str, Any]]]  # a face's status and body


def openai_words(problem: ServerProblem) -> dict[str, Any]:
    """OpenAI's shape."""
    words = {"message": problem.message, "type": problem.type, "param": problem.param, "code": problem.code}
    return {"error": words}


WORDINGS: dict[str, Wording] = {}  # of routes whose face is not OpenAI's, by path


def respond(problem: ServerProblem, path: str) -> JSONResponse:
    """The response, in the shape of the face that a path belongs to."""
    worded = WORDINGS.get(path)
    status, body = (problem.status, openai_words(problem)) if worded is None else worded(problem)
    return JSONResponse(body, status, problem.headers)


async def send_problem(problem: ServerProblem, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a problem from within ASGI middleware."""
    await respond(problem, scope["path"])(scope, receive, send)


def problem_of(error: Exception) -> ServerProblem:
    """What an exception means to a client. What is no fault of the client's is logged, and told without its insides."""
    for kinds, read in READERS:
        if isinstance(error, kinds):
            return read(error)
    LOG.error("a request failed", exc_info=error)
    message = str(error) if isinstance(error, HalfbyteError) else "the server made a mistake; its log says which"
    return ServerProblem(500, message, "server_error", "internal_error")


def _later(status: int, kind: str, code: str) -> Callable[[Any], ServerProblem]:
    """For what may be sent again."""

    def read(error: HalfbyteError) -> ServerProblem:
        problem = ServerProblem(status, str(error), kind, code)
        problem.headers["Retry-After"] = str(RETRY_AFTER)
        return problem

    return read


def _of_request(error: RequestError) -> ServerProblem:
    """Engine messages begin with the parameter that is wrong; too long a prompt has a code that clients look for."""
    message = str(error)
    if message.startswith("the prompt has"):
        return ServerProblem(400, message, code="context_length_exceeded")
    match = re.match(r"([a-z][a-z_]*)(?: is | cannot be | names | and )", message)
    return ServerProblem(400, message, param=match[1] if match else None)


def _of_text(error: TokenizerError | PromptError) -> ServerProblem:
    return ServerProblem(400, str(error), param="messages" if "messages[" in str(error) else None)


def _of_validation(error: RequestValidationError) -> ServerProblem:
    """OpenAI answers 400, where FastAPI would say 422; the deepest place that is wrong tells the most."""
    first: Any = max(error.errors(), key=lambda error: len(error["loc"]))
    place = (
        first["loc"][1:] if first["loc"] and first["loc"][0] in ("body", "query", "path", "header") else first["loc"]
    )
    if first["type"] == "json_invalid":
        detail = first.get("ctx", {}).get("error", first["msg"])
        return ServerProblem(400, f"the body is not valid JSON: {detail}", code="invalid_json")
    names = [str(part) for part in place if isinstance(part, int) or re.fullmatch(r"[a-z_][a-z0-9_]*", str(part))]
    param = ".".join(names) or None
    if param is None and first["type"] in ("model_attributes_type", "missing"):
        return ServerProblem(400, "the body must be a JSON object, sent with Content-Type: application/json")
    message = first["msg"].removeprefix("Value error, ")
    return ServerProblem(400, f"{param}: {message}" if param else message, param=param)


def _of_http(error: HTTPException) -> ServerProblem:
    code = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}.get(error.status_code)
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    problem = ServerProblem(error.status_code, str(error.detail), kind, code)
    problem.headers.update(error.headers or {})
    return problem


READERS: tuple[tuple[Any, Callable[[Any], ServerProblem]], ...] = (
    (ServerProblem, lambda problem: problem),
    (RequestValidationError, _of_validation),
    (HTTPException, _of_http),
    (QueueFullError, _later(429, "rate_limit_error", "queue_full")),
    (EngineStoppedError, _later(503, "server_error", "engine_stopped")),
    (RequestError, _of_request),
    ((TokenizerError, PromptError), _of_text),
)


def install(app: FastAPI) -> None:
    """Make an app answer every exception so."""

    async def handle(request: Request, error: Exception) -> Response:
        if isinstance(error, ClientGone):
            return JSONResponse(None, CLIENT_GONE)
        problem = problem_of(error)
        if isinstance(error, HTTPException) and error.status_code in (404, 405):
            problem.message = f"{problem.message}: {request.method} {request.url.path}"
        return respond(problem, request.url.path)

    for kind in (ServerProblem, RequestValidationError, HTTPException, HalfbyteError, ClientGone, Exception):
        app.add_exception_handler(kind, handle)
