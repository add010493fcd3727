"""Errors in TGI's shape: {error, error_type}, and its four statuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from halfbyte.server.problems import problem_of

if TYPE_CHECKING:
    from halfbyte.server.problems import ServerProblem

KINDS = {
    401: "authentication",
    403: "authentication",
    405: "validation",
    408: "timeout",
    413: "validation",
    429: "overloaded",
}


def tgi_words(problem: ServerProblem) -> tuple[int, dict[str, Any]]:
    """422 for what the client did wrong, 429, 424 if the engine could not answer, 500 for our own mistakes.

    What TGI itself never answers (no key, another method, too long or too slow a body) keeps its status.
    """
    status = problem.status
    if status == 503:
        status, kind = 424, "generation"
    elif status >= 500:
        kind = "incomplete_generation"
    elif status in KINDS:
        kind = KINDS[status]
    else:
        status, kind = 422, "validation"
    return status, {"error": problem.message, "error_type": kind}


def failed(error: Exception) -> dict[str, Any]:
    """What ends a stream that has begun."""
    return tgi_words(problem_of(error))[1]
