"""POST /v1/chat/completions."""

from __future__ import annotations

import json
import time
import uuid
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from halfbyte.server.api_document import also
from halfbyte.server.body import StrictRoute
from halfbyte.server.disconnect import while_connected
from halfbyte.server.openai.chunks import ChunkWriter
from halfbyte.server.openai.conversation import read_conversation
from halfbyte.server.openai.failure import failed_stream
from halfbyte.server.openai.logprobs import chat_logprobs, chat_logprobs_json
from halfbyte.server.openai.protocol import ChatBody, NamedChoice
from halfbyte.server.openai.sampling import answers, chat_params
from halfbyte.server.openai.tool_calls import CallReader, delta_of, read_message
from halfbyte.server.openai.usage import Usage
from halfbyte.server.sse import DONE, event_stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from halfbyte.engine.outputs import CompletionOutput, Delta
    from halfbyte.server.models import Models, ServedModel
    from halfbyte.server.openai.conversation import Conversation
    from halfbyte.server.settings import ServerSettings

ROLE = '{"role":"assistant","content":""}'


def router(models: Models, settings: ServerSettings) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1", tags=["openai"], route_class=StrictRoute)

    @routes.post("/chat/completions", responses=also("text/event-stream"))
    async def create_chat_completion(body: ChatBody, request: Request) -> Response:
        """Answer a conversation."""
        model = models.get(body.model)
        asked = _Asked(body, model, await read_conversation(body, model))
        if body.stream:
            return await event_stream(request, asked.frames(), failed_stream)
        return JSONResponse(await while_connected(request.receive, asked.complete()))

    return routes


class _Asked:
    """One request, checked."""

    def __init__(self, body: ChatBody, model: ServedModel, conversation: Conversation) -> None:
        self.body, self.model, self.prompt, self.form = body, model, conversation.prompt, conversation.form
        self.drawn, self.copies = answers(body)
        self.top = body.top_logprobs or 0
        self.params = chat_params(body, conversation, self.drawn)
        self.id, self.created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())

    async def complete(self) -> dict[str, Any]:
        """The response's body."""
        output = await self.model.complete(self.prompt, self.params, priority=self.body.priority)
        drawn = [answer for answer in output.outputs for _ in range(self.copies)]
        choices = [self._choice(index, answer) for index, answer in enumerate(drawn)]
        usage = Usage(len(output.prompt_token_ids), sum(len(answer.token_ids) for answer in output.outputs))
        usage.cached_tokens = output.num_cached_tokens or 0
        about = {"id": self.id, "object": "chat.completion", "created": self.created, "model": self.model.name}
        made_by = {"system_fingerprint": self.model.fingerprint}
        return {**about, "choices": choices, "usage": usage.as_dict(), **made_by}

    def _choice(self, index: int, answer: CompletionOutput) -> dict[str, Any]:
        message = read_message(self.form, answer.text)
        logprobs = None
        if answer.logprobs is not None:
            logprobs = chat_logprobs(self.model.tokenizer, answer.token_ids, answer.logprobs, self.top)
        return {
            "index": index,
            "message": message.as_dict(),
            "logprobs": logprobs,
            "finish_reason": self._finish(answer.finish_reason, len(message.calls)),
        }

    def _finish(self, reason: str | None, calls: int) -> str | None:
        """As OpenAI says it: a function that was named beforehand is no reason to stop."""
        is_call = reason == "stop" and calls and not isinstance(self.body.tool_choice, NamedChoice)
        return "tool_calls" if is_call else reason

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """The stream."""
        usage, options = Usage(len(self.prompt.token_ids)), self.body.stream_options
        told = usage if options and options.include_usage else None
        always = bool(options and options.continuous_usage_stats)
        write = ChunkWriter("chat.completion.chunk", self.id, self.model, self.created, told, always=always)
        step = self._call_frames if self.form is not None else self._text_frame
        begun: set[int] = set()
        readers: dict[int, CallReader] = {}
        stream = self.model.generate(self.prompt, self.params, priority=self.body.priority)
        async with aclosing(stream):
            async for delta in stream:
                usage.completion_tokens += 1
                usage.began(delta.begun)
                for index in range(delta.index, delta.index + self.copies):
                    frame = b""
                    if index not in begun:
                        begun.add(index)
                        readers[index] = CallReader(self.form)
                        frame = write.delta(index, ROLE)
                    frame += step(write, readers[index], index, delta)
                    if frame:
                        yield frame
        yield write.usage() + DONE

    def _text_frame(self, write: ChunkWriter, reader: CallReader, index: int, delta: Delta) -> bytes:
        if not delta.text and not delta.finish_reason and delta.logprobs is None:
            return b""  # half of a character, or what may become a stop string
        return write.content(index, delta.text, delta.finish_reason, self._logprobs(delta))

    def _call_frames(self, write: ChunkWriter, reader: CallReader, index: int, delta: Delta) -> bytes:
        pieces = reader.push(delta.text) + (reader.flush() if delta.finish_reason else [])
        deltas = [json.dumps(delta_of(piece)) for piece in pieces]
        finish = self._finish(delta.finish_reason, reader.calls)
        if finish or (delta.logprobs is not None and not deltas):
            deltas.append("{}")
        parts = [write.delta(index, found) for found in deltas[:-1]]
        parts += [write.delta(index, found, finish, self._logprobs(delta)) for found in deltas[-1:]]
        return b"".join(parts)

    def _logprobs(self, delta: Delta) -> str:
        return chat_logprobs_json(self.model.tokenizer, delta.token_id, delta.logprobs, self.top)
