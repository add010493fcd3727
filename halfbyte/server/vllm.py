"""What the old `vllm.entrypoints.api_server` answers, and what vLLM's servers have for those who run them."""

from __future__ import annotations

import json
from contextlib import aclosing
from dataclasses import fields
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from halfbyte.engine.sampling_params import SamplingParams
from halfbyte.server.body import StrictRoute
from halfbyte.server.disconnect import while_connected
from halfbyte.server.openai.conversation import read_conversation
from halfbyte.server.openai.protocol import Body, ChatBody, TokenId
from halfbyte.server.problems import ServerProblem
from halfbyte.server.reading import read_text
from halfbyte.server.sse import event_stream
from halfbyte.server.tgi.failure import failed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from halfbyte.engine.prompt import ReadPrompt
    from halfbyte.server.models import Models, ServedModel
    from halfbyte.server.settings import ServerSettings

PARAMETERS = frozenset(field.name for field in fields(SamplingParams)) - {"echo"}  # the prompt is in every answer
# vLLM's parameters that are not ours, with the values at which they do nothing
WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "use_beam_search": (False,),
    "length_penalty": (1.0,),
    "early_stopping": (False,),
    "spaces_between_special_tokens": (True,),
    "prefix_pos": (None,),
    "detokenize": (True,),
}
NDJSON = {"content-type": "application/x-ndjson"}


class GenerateBody(BaseModel):
    """POST /generate: besides these fields, those of SamplingParams, with its defaults (max_tokens is 16)."""

    model_config = ConfigDict(strict=True, extra="allow")
    prompt: str
    stream: bool = False

    def params(self) -> SamplingParams:
        """Raises ServerProblem for a name that is no parameter, RequestError for a value that is none."""
        given = dict(self.model_extra or {})
        for name, neutral in WITHOUT_EFFECT.items():
            if name in given and given.pop(name) not in neutral:
                raise ServerProblem(400, f"{name} is not supported; leave it out", param=name)
        unknown = sorted(given.keys() - PARAMETERS)
        if unknown:
            raise ServerProblem(400, f"{unknown[0]!r:.80} is no sampling parameter")
        params = SamplingParams(**given)
        if self.stream and params.drawn > params.n:
            raise ServerProblem(400, "best_of cannot be streamed: which answers are best is known at the end")
        return params


class TokenizeBody(Body):
    """POST /tokenize with a text."""

    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool = False


class TokenizeChatBody(ChatBody):
    """POST /tokenize with a conversation."""

    return_token_strs: bool = False


class DetokenizeBody(Body):
    """POST /detokenize."""

    tokens: list[TokenId] = Field(description="Token ids.")


async def generate(body: GenerateBody, models: Models, request: Request) -> Response:
    """{"text": [prompt + answer, …]}; streamed, such an object after each token, each on a line of its own."""
    model, params = models.first, body.params()
    prompt = await read_text(model, body.prompt)
    if body.stream:
        frames = _frames(model, prompt, params, body.prompt)
        return await event_stream(request, frames, lambda error: _line(failed(error)), headers=NDJSON)
    output = await while_connected(request.receive, model.complete(prompt, params))
    return JSONResponse({"text": [body.prompt + answer.text for answer in output.outputs]})


async def _frames(
    model: ServedModel, prompt: ReadPrompt, params: SamplingParams, before: str
) -> AsyncGenerator[bytes, None]:
    texts = [before] * params.n
    answers = model.generate(prompt, params)
    async with aclosing(answers):
        async for delta in answers:
            texts[delta.index] += delta.text
            yield _line({"text": texts})


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"


async def tokenize(body: TokenizeBody | TokenizeChatBody, models: Models) -> dict[str, Any]:
    """The tokens of a text or of a conversation."""
    model = models.get(body.model)
    if isinstance(body, TokenizeBody):
        tokens = (await read_text(model, body.prompt, add_special_tokens=body.add_special_tokens)).token_ids
    else:
        tokens = (await read_conversation(body, model)).prompt.token_ids
    pieces = [model.tokenizer.backend.id_to_token(token) for token in tokens] if body.return_token_strs else None
    return {"count": len(tokens), "max_model_len": model.max_model_len, "tokens": tokens, "token_strs": pieces}


def router(models: Models, settings: ServerSettings) -> APIRouter:
    """The routes, but for those whose names TGI has too (see halfbyte.server.shared_routes)."""
    routes = APIRouter(tags=["vllm"], route_class=StrictRoute)

    @routes.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> dict[str, str]:
        """The text of token ids, special ones written out."""
        tokenizer = models.get(body.model).tokenizer
        return {"prompt": tokenizer.decode(body.tokens, skip_special_tokens=False)}

    @routes.get("/version")
    async def show_version() -> dict[str, str]:
        """halfbyte's."""
        return {"version": version("halfbyte")}

    @routes.get("/load")
    async def load() -> dict[str, int]:
        """How many requests wait or are being answered."""
        return {"server_load": models.unfinished}

    return routes
