"""GET / and what the page asks besides OpenAI's routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

from halfbyte.prompts.templates import TEMPLATES
from halfbyte.server.page.document import document

if TYPE_CHECKING:
    from collections.abc import Mapping

    from halfbyte.server.models import Models
    from halfbyte.server.settings import ServerSettings


def router(models: Models, settings: ServerSettings) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["page"])

    @routes.api_route("/", methods=["GET", "HEAD"], response_class=HTMLResponse, include_in_schema=False)
    async def page() -> Response:
        """The chat page."""
        return page_response(200)

    @routes.get("/chat_templates")
    async def list_chat_templates() -> dict[str, Any]:
        """The airoboros templates that a chat request may name in `chat_template`, instead of the model's own."""
        found = [{"name": t.name, "system": t.system, "stop": list(t.stop)} for t in TEMPLATES.values()]
        return {"templates": found}

    return routes


def page_response(status: int) -> Response:
    """The page. With 401 to a browser without a key: a visit cannot send one, and the page asks for it."""
    made = document()
    return HTMLResponse(made.html, status, made.headers)


def is_visit(scope: Mapping[str, Any]) -> bool:
    """Whether a browser asks for the page: GET / where HTML is wanted."""
    if scope["path"] != "/" or scope["method"] not in ("GET", "HEAD"):
        return False
    return any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])
