"""TGI's routes, but for /generate and /tokenize, whose names vLLM has too (see halfbyte.server.shared_routes)."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Discriminator, Tag
from starlette.responses import Response as StarletteResponse

from halfbyte.server.api_document import also
from halfbyte.server.body import StrictRoute
from halfbyte.server.openai.conversation import read_conversation
from halfbyte.server.openai.protocol import ChatBody, CompletionBody
from halfbyte.server.problems import WORDINGS
from halfbyte.server.tgi.failure import tgi_words
from halfbyte.server.tgi.generate import answer, stream
from halfbyte.server.tgi.protocol import MOST_BEST_OF, MOST_STOPS, CompatGenerateBody, GenerateBody
from halfbyte.server.tgi.tokens import simple_tokens

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from halfbyte.server.models import Models
    from halfbyte.server.settings import ServerSettings

WORDINGS.update(dict.fromkeys(("/", "/generate", "/generate_stream", "/info", "/chat_tokenize"), tgi_words))


def _kind(value: Any) -> str:
    """Which route a body is meant for; the names have spaces so that no error message takes them for fields."""
    fields = value if isinstance(value, dict) else getattr(value, "__dict__", ())  # a model of ours, or no object
    return "a chat" if "messages" in fields else "a completion" if "prompt" in fields else "a generation"


Invocation = Annotated[
    Annotated[CompatGenerateBody, Tag("a generation")]
    | Annotated[ChatBody, Tag("a chat")]
    | Annotated[CompletionBody, Tag("a completion")],
    Discriminator(_kind),
]


def router(models: Models, settings: ServerSettings) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["tgi"], route_class=StrictRoute)

    @routes.post("/generate_stream", responses=also("text/event-stream"))
    async def generate_stream(body: GenerateBody, request: Request) -> Response:
        """Go on with a text, token by token."""
        return await stream(body, models, request)

    @routes.post("/", responses=also("text/event-stream"))
    async def compat_generate(body: CompatGenerateBody, request: Request) -> Response:
        """/generate_stream if `stream` is true; else /generate, in a list of one."""
        if body.stream:
            return await stream(body, models, request)
        return await answer(body, models, request, listed=True)

    @routes.post("/invocations", responses=also("text/event-stream"))
    async def invocations(body: Invocation, request: Request) -> Response:
        """SageMaker's one route: a body with `inputs` is for /, with `messages` or `prompt` for OpenAI's routes."""
        if isinstance(body, CompatGenerateBody):
            return await compat_generate(body, request)
        return _Elsewhere(request, "/v1/chat/completions" if isinstance(body, ChatBody) else "/v1/completions")

    @routes.get("/info")
    async def info() -> dict[str, Any]:
        """What is served, and its bounds."""
        model = models.first
        return {
            "model_id": model.name,
            "model_sha": None,
            "model_pipeline_tag": "text-generation",
            "max_concurrent_requests": model.engine.max_requests,
            "max_best_of": MOST_BEST_OF,
            "max_stop_sequences": MOST_STOPS,
            "max_input_tokens": model.max_model_len - 1,
            "max_total_tokens": model.max_model_len,
            "validation_workers": 1,
            "max_client_batch_size": 1,
            "router": "halfbyte",
            "version": version("halfbyte"),
            "sha": None,
            "docker_label": None,
        }

    @routes.post("/chat_tokenize")
    async def chat_tokenize(body: ChatBody) -> dict[str, Any]:
        """The tokens of a conversation, as the chat template writes it."""
        model = models.get(body.model)
        text = (await read_conversation(body, model)).prompt.text or ""
        tokens = simple_tokens(model.tokenizer, text, add_special_tokens=False)
        return {"tokenize_response": tokens, "templated_text": text}

    return routes


class _Elsewhere(StarletteResponse):
    """What another route of this application answers to the same body."""

    def __init__(self, request: Request, path: str) -> None:
        super().__init__()
        self._request, self._path = request, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask it."""
        body, sent = await self._request.body(), False

        async def receive_again() -> Any:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        there = {**scope, "path": self._path, "raw_path": self._path.encode()}
        await scope["app"].router(there, receive_again, send)
