"""POST /v1/embeddings: the network's last hidden state, of unit length as OpenAI's are."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field, model_validator

from halfbyte.server.body import StrictRoute
from halfbyte.server.disconnect import while_connected
from halfbyte.server.generation import AT_ONCE, together
from halfbyte.server.openai.prompts import Prompts, read_prompts
from halfbyte.server.openai.protocol import Body
from halfbyte.server.openai.usage import Usage

if TYPE_CHECKING:
    from halfbyte.engine.prompt import ReadPrompt
    from halfbyte.server.models import Models, ServedModel
    from halfbyte.server.settings import ServerSettings


class EmbeddingBody(Body):
    """POST /v1/embeddings."""

    input: Prompts = Field(description="A text, texts, token ids, or lists of token ids.")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, description="Refused: these models have no shorter embeddings.")
    pooling: Literal["last", "mean"] = Field("last", description="Of the last token, or the mean over all.")
    truncate_prompt_tokens: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _has_no_dimensions(self) -> EmbeddingBody:
        if self.dimensions is not None:
            raise ValueError("dimensions cannot be chosen: the model was not trained for shorter embeddings")
        return self


def router(models: Models, settings: ServerSettings) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1", tags=["openai"], route_class=StrictRoute)

    @routes.post("/embeddings")
    async def create_embeddings(body: EmbeddingBody, request: Request) -> Response:
        """Embed a text, or several."""
        model = models.get(body.model)
        most = settings.max_batch_prompts
        prompts = await read_prompts(body.input, model, "input", most, keep=body.truncate_prompt_tokens)
        vectors = await while_connected(request.receive, _embed(model, prompts, body))
        data = [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, body.encoding_format)}
            for index, vector in enumerate(vectors)
        ]
        tokens = Usage(sum(len(prompt.token_ids) for prompt in prompts)).as_dict()
        usage = {name: tokens[name] for name in ("prompt_tokens", "total_tokens")}
        return JSONResponse({"object": "list", "model": model.name, "data": data, "usage": usage})

    return routes


async def _embed(model: ServedModel, prompts: list[ReadPrompt], body: EmbeddingBody) -> list[np.ndarray]:
    """Float32 [D] of each."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(prompt: ReadPrompt) -> np.ndarray:
        async with room:
            vector: np.ndarray = (await model.embed(prompt, body.pooling)).numpy().astype(np.float64)
            return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)

    return await together([one(prompt) for prompt in prompts])


def _encoded(vector: np.ndarray, form: str) -> Any:
    """As a list, or as OpenAI's client asks for it: little-endian float32 in base64."""
    return vector.tolist() if form == "float" else base64.b64encode(vector.astype("<f4").tobytes()).decode()
