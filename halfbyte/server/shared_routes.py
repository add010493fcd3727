"""Routes whose names vLLM and TGI both have: which is meant, the body tells.

POST /generate and /tokenize with `inputs` are TGI's; with `prompt` (or `messages`), vLLM's. vLLM's old server has no
shape of its own for errors, so at /generate TGI's serves both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Discriminator, Tag

from halfbyte.server import vllm
from halfbyte.server.api_document import also
from halfbyte.server.body import StrictRoute
from halfbyte.server.tgi import generate as tgi
from halfbyte.server.tgi.protocol import GenerateBody, TokenizeBody
from halfbyte.server.tgi.tokens import simple_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from halfbyte.server.models import Models
    from halfbyte.server.settings import ServerSettings

FORM = b"application/x-www-form-urlencoded"


def _face(value: Any) -> str:
    """Whose body it is; the names have spaces so that no error message takes them for fields."""
    fields = value if isinstance(value, dict) else getattr(value, "__dict__", ())  # a model of ours, or no object
    if "inputs" in fields:
        return "as TGI"
    return "as vLLM, a chat" if "messages" in fields else "as vLLM"


EitherGenerate = Annotated[
    Annotated[vllm.GenerateBody, Tag("as vLLM")] | Annotated[GenerateBody, Tag("as TGI")],
    Discriminator(lambda value: _face(value).partition(",")[0]),
]
EitherTokenize = Annotated[
    Annotated[vllm.TokenizeBody, Tag("as vLLM")]
    | Annotated[vllm.TokenizeChatBody, Tag("as vLLM, a chat")]
    | Annotated[TokenizeBody, Tag("as TGI")],
    Discriminator(_face),
]


class CurlRoute(StrictRoute):
    """Reads JSON also from `curl -d` without a header, as vLLM's documentation writes it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler behind such a request."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            headers = [
                (k, b"application/json" if (k, v) == (b"content-type", FORM) else v) for k, v in request.headers.raw
            ]
            return await handler(Request({**request.scope, "headers": headers}, request.receive))

        return handle


def router(models: Models, settings: ServerSettings) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["vllm", "tgi"], route_class=CurlRoute)

    @routes.post("/generate", responses=also("application/x-ndjson", "text/event-stream"))
    async def generate(body: EitherGenerate, request: Request) -> Response:
        """Go on with a text. With `prompt`: as vLLM's old server; with `inputs`: as TGI."""
        if isinstance(body, GenerateBody):
            return await tgi.answer(body, models, request)
        return await vllm.generate(body, models, request)

    @routes.post("/tokenize")
    async def tokenize(body: EitherTokenize) -> Any:
        """A text's tokens. With `prompt` or `messages`: as vLLM; with `inputs`: as TGI."""
        if isinstance(body, TokenizeBody):
            return simple_tokens(models.first.tokenizer, body.inputs, add_special_tokens=body.add_special_tokens)
        return await vllm.tokenize(body, models)

    return routes
