"""Reads request bodies as JSON of the strict kind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class StrictRequest(Request):
    """A request whose JSON has no NaN or infinity, no half of a surrogate pair, no endless nesting."""

    async def json(self) -> Any:
        """The body's value. Raises JSONDecodeError, which FastAPI hands on as a validation error."""
        body = await self.body()
        try:
            return from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise json.JSONDecodeError(str(error), "", 0) from None


class StrictRoute(APIRoute):
    """A route that reads its bodies so; for `APIRouter(route_class=StrictRoute)`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler behind a StrictRequest."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return handle
