"""What /openapi.json says beside what FastAPI reads off the routes."""

from __future__ import annotations

from typing import Any

Responses = dict[int | str, dict[str, Any]]

FAILURES: Responses = {  # of every route
    "4XX": {"description": "The request is wrong, or comes too soon; the body says why, as the route's face words it."},
    503: {"description": "The model is not ready, or the server is about to stop. Try again."},
}


def also(*kinds: str) -> Responses:
    """For a route that answers with these media types too, if a stream is asked for."""
    return {200: {"content": {"application/json": {}} | {kind: {} for kind in kinds}}}
