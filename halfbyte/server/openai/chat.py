"""POST /v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from halfbyte.server.body import StrictRoute
from halfbyte.server.disconnect import while_connected
from halfbyte.server.openai.chunks import ChunkWriter
from halfbyte.server.openai.failure import failed_stream
from halfbyte.server.openai.protocol import ChatBody
from halfbyte.server.openai.sampling import answers, sampling_params
from halfbyte.server.openai.usage import Usage
from halfbyte.server.reading import read_chat
from halfbyte.server.sse import DONE, event_stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from halfbyte.engine.prompt import ReadPrompt
    from halfbyte.server.models import Models, ServedModel
    from halfbyte.server.settings import ServerSettings

ROLE = '{"role":"assistant","content":""}'


def router(models: Models, settings: ServerSettings) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1", tags=["openai"], route_class=StrictRoute)

    @routes.post("/chat/completions")
    async def create_chat_completion(body: ChatBody, request: Request) -> Response:
        """Answer a conversation."""
        model = models.get(body.model)
        messages = [message.model_dump(exclude_none=True) for message in body.messages]
        asked = _Asked(body, model, await read_chat(model, messages, **(body.chat_template_kwargs or {})))
        if body.stream:
            return await event_stream(request, asked.frames(), failed_stream)
        return JSONResponse(await while_connected(request.receive, asked.complete()))

    return routes


class _Asked:
    """One request, checked."""

    def __init__(self, body: ChatBody, model: ServedModel, prompt: ReadPrompt) -> None:
        self.body, self.model, self.prompt = body, model, prompt
        self.drawn, self.copies = answers(body)
        most = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        self.params = sampling_params(body, max_tokens=most, n=self.drawn)
        self.id, self.created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())

    async def complete(self) -> dict[str, Any]:
        """The response's body."""
        output = await self.model.complete(self.prompt, self.params, priority=self.body.priority)
        drawn = [answer for answer in output.outputs for _ in range(self.copies)]
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "logprobs": None,
                "finish_reason": answer.finish_reason,
            }
            for index, answer in enumerate(drawn)
        ]
        usage = Usage(len(output.prompt_token_ids), sum(len(answer.token_ids) for answer in output.outputs))
        about = {"id": self.id, "object": "chat.completion", "created": self.created, "model": self.model.name}
        return {**about, "choices": choices, "usage": usage.as_dict()}

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """The stream."""
        usage, options = Usage(len(self.prompt.token_ids)), self.body.stream_options
        told = usage if options and options.include_usage else None
        write = ChunkWriter("chat.completion.chunk", self.id, self.model.name, self.created, told)
        begun: set[int] = set()
        stream = self.model.generate(self.prompt, self.params, priority=self.body.priority)
        async with aclosing(stream):
            async for delta in stream:
                usage.completion_tokens += 1
                for index in range(delta.index, delta.index + self.copies):
                    frame = b""
                    if index not in begun:
                        begun.add(index)
                        frame = write.delta(index, ROLE)
                    if delta.text or delta.finish_reason:
                        frame += write.content(index, delta.text, delta.finish_reason)
                    if frame:
                        yield frame
        yield write.usage() + DONE
