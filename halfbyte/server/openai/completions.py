"""POST /v1/completions: prompts as they are, without a chat template."""

from __future__ import annotations

import time
import uuid
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from halfbyte.engine.prompt import ReadPrompt
from halfbyte.server.body import StrictRoute
from halfbyte.server.disconnect import while_connected
from halfbyte.server.generation import complete_all, stream_all
from halfbyte.server.openai.chunks import ChunkWriter
from halfbyte.server.openai.failure import failed_stream
from halfbyte.server.openai.protocol import CompletionBody
from halfbyte.server.openai.sampling import answers, sampling_params
from halfbyte.server.openai.usage import Usage
from halfbyte.server.problems import ServerProblem
from halfbyte.server.reading import read_text
from halfbyte.server.sse import DONE, event_stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from halfbyte.engine.outputs import RequestOutput
    from halfbyte.engine.sampling_params import SamplingParams
    from halfbyte.server.models import Models, ServedModel
    from halfbyte.server.settings import ServerSettings

DEFAULT_MAX_TOKENS = 16  # OpenAI's


def router(models: Models, settings: ServerSettings) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1", tags=["openai"], route_class=StrictRoute)

    @routes.post("/completions")
    async def create_completion(body: CompletionBody, request: Request) -> Response:
        """Go on with a text, or several."""
        asked = await _Asked.of(body, models.get(body.model), settings.max_batch_prompts)
        if body.stream:
            return await event_stream(request, asked.frames(), failed_stream)
        return JSONResponse(await while_connected(request.receive, asked.complete()))

    return routes


class _Asked:
    """One request, checked."""

    def __init__(self, body: CompletionBody, model: ServedModel, prompts: list[ReadPrompt]) -> None:
        self.body, self.model, self.prompts = body, model, prompts
        self.drawn, self.copies = answers(body)
        self.params = _params(body, self.drawn)
        self.id, self.created = f"cmpl-{uuid.uuid4().hex}", int(time.time())

    @classmethod
    async def of(cls, body: CompletionBody, model: ServedModel, most: int) -> _Asked:
        """Read the prompts' tokens."""
        prompts = []
        for prompt in _prompts(body.prompt, most):
            if isinstance(prompt, str):
                read = await read_text(model, prompt, add_special_tokens=body.add_special_tokens)
            else:
                read = ReadPrompt(None, prompt)
            prompts.append(read)
        return cls(body, model, prompts)

    async def complete(self) -> dict[str, Any]:
        """The response's body."""
        outputs = await complete_all(self.model, self.prompts, self.params, self.body.priority)
        choices = [choice for output in outputs for choice in self._choices(output)]
        for index, choice in enumerate(choices):
            choice["index"] = index
        usage = Usage(
            sum(len(output.prompt_token_ids) for output in outputs),
            sum(len(answer.token_ids) for output in outputs for answer in output.outputs),
        )
        about = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model.name}
        return {**about, "choices": choices, "usage": usage.as_dict()}

    def _choices(self, output: RequestOutput) -> list[dict[str, Any]]:
        return [
            {"index": 0, "text": answer.text, "logprobs": None, "finish_reason": answer.finish_reason}
            for answer in output.outputs
            for _ in range(self.copies)
        ]

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """The stream."""
        usage, options = Usage(sum(len(p.token_ids) for p in self.prompts)), self.body.stream_options
        told = usage if options and options.include_usage else None
        write = ChunkWriter("text_completion", self.id, self.model.name, self.created, told)
        each = self.drawn * self.copies
        async with aclosing(stream_all(self.model, self.prompts, self.params, self.body.priority)) as steps:
            async for number, delta in steps:
                usage.completion_tokens += 1
                if delta.text or delta.finish_reason:
                    first = number * each + delta.index
                    for index in range(first, first + self.copies):
                        yield write.text(index, delta.text, delta.finish_reason)
        yield write.usage() + DONE


def _params(body: CompletionBody, drawn: int) -> SamplingParams:
    max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    return sampling_params(body, max_tokens=max_tokens, n=drawn, best_of=body.best_of, echo=bool(body.echo))


def _prompts(value: Any, most: int) -> list[str | list[int]]:
    """The forms that `prompt` may have, as a list."""
    forms = "prompt must be a text, a list of texts, a list of token ids, or a list of such lists; none empty"
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise ServerProblem(400, forms, param="prompt")
    if _are_ids(value):
        return [value]
    if not all(isinstance(prompt, str) for prompt in value) and not all(_are_ids(prompt) for prompt in value):
        raise ServerProblem(400, forms, param="prompt")
    if len(value) > most:
        raise ServerProblem(400, f"{len(value)} prompts in one request; at most {most} are taken", param="prompt")
    return value


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(i) is int for i in value)
