"""/v1/responses: answers that are kept and can be gone on from, also made in the background."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from halfbyte.server.api_document import also
from halfbyte.server.body import StrictRoute
from halfbyte.server.disconnect import while_connected
from halfbyte.server.openai.conversation import read_conversation
from halfbyte.server.openai.logprobs import chat_logprobs
from halfbyte.server.openai.response_body import ResponseBody, as_chat
from halfbyte.server.openai.response_events import ResponseWriter, new_id
from halfbyte.server.openai.response_store import ResponseStore, Stored
from halfbyte.server.openai.sampling import chat_params
from halfbyte.server.openai.tool_calls import CallReader, Words
from halfbyte.server.problems import ServerProblem, problem_of
from halfbyte.server.sse import event_stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from halfbyte.engine.answer_stream import AnswerStream
    from halfbyte.engine.outputs import Delta
    from halfbyte.engine.prompt import ReadPrompt
    from halfbyte.engine.sampling_params import SamplingParams
    from halfbyte.server.auth import Key
    from halfbyte.server.models import Models, ServedModel
    from halfbyte.server.openai.tool_calls import CallForm, Piece
    from halfbyte.server.settings import ServerSettings


def router(models: Models, settings: ServerSettings) -> APIRouter:
    """The routes, over a store of their own."""
    routes = APIRouter(prefix="/v1", tags=["openai"], route_class=StrictRoute)
    store = ResponseStore(settings.max_stored_responses)

    @routes.post("/responses", responses=also("text/event-stream"))
    async def create_response(body: ResponseBody, request: Request) -> Response:
        """Answer."""
        model, owner = models.get(body.model), _owner(request)
        before = [] if body.previous_response_id is None else _follow(store, body.previous_response_id, owner)
        chat = as_chat(body, before)
        conversation = await read_conversation(chat, model)
        asked = _Asked(body, model, conversation.prompt, chat_params(chat, conversation), conversation.form)
        items = [*before, *body.items]
        stored = Stored(asked.response, items, body.items, len(await request.body()), owner)
        if body.store is not False:
            store.add(stored)
        if body.background:
            stored.task = asyncio.create_task(asked.run(asked.start()))
            return JSONResponse(asked.response)
        try:
            if body.stream:
                return await event_stream(request, asked.frames(), asked.failed)
            await while_connected(request.receive, asked.complete())
        except BaseException:  # nobody knows of it
            if body.store is not False:
                store.delete(asked.response["id"], owner)
            raise
        return JSONResponse(asked.response)

    @routes.get("/responses/{response_id}")
    async def retrieve_response(response_id: str, request: Request, stream: bool = False) -> Response:
        """A response as it is now."""
        if stream:
            raise ServerProblem(400, "a response that is there already cannot be streamed", param="stream")
        return JSONResponse(store.get(response_id, _owner(request)).response)

    @routes.get("/responses/{response_id}/input_items")
    async def list_input_items(response_id: str, request: Request) -> Response:
        """What was asked."""
        found = store.get(response_id, _owner(request)).input
        data = [{"type": "message", **item, "id": item.get("id", f"in_{i}")} for i, item in enumerate(found)]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"], "has_more": False}
        return JSONResponse({"object": "list", "data": data, **ends})

    @routes.post("/responses/{response_id}/cancel")
    async def cancel_response(response_id: str, request: Request) -> Response:
        """End a response of the background. One that has ended stays as it is."""
        stored = store.get(response_id, _owner(request))
        if stored.task is None:
            raise ServerProblem(400, "only a response that was made with background can be cancelled")
        await _cancel(stored)
        return JSONResponse(stored.response)

    @routes.delete("/responses/{response_id}")
    async def delete_response(response_id: str, request: Request) -> Response:
        """Keep a response no more; end it if it is still being made."""
        await _cancel(store.delete(response_id, _owner(request)))
        return JSONResponse({"id": response_id, "object": "response", "deleted": True})

    return routes


class _Asked:
    """One request, checked, and its response."""

    def __init__(
        self, body: ResponseBody, model: ServedModel, prompt: ReadPrompt, params: SamplingParams, form: CallForm | None
    ) -> None:
        self.body, self.model, self.prompt, self.params, self.form = body, model, prompt, params, form
        self.response = _empty(body, model.name)
        self.writer = ResponseWriter(self.response)
        self.reader = CallReader(form)
        self.tokens = self.cached = 0
        self.reason: str | None = None

    def start(self) -> AnswerStream:
        """Queue it. Raises what AsyncEngine.generate does."""
        return self.model.generate(self.prompt, self.params, priority=self.body.priority)

    async def complete(self) -> None:
        """Answer; the response holds what came."""
        async for _ in self.frames():
            pass

    async def run(self, stream: AnswerStream) -> None:
        """Answer in the background: whatever happens is told by the response."""
        try:
            async for _ in self.frames(stream):
                pass
        except Exception as error:  # who asks for it later must learn of it
            self.failed(error)

    def failed(self, error: Exception) -> bytes:
        """The last events, if it is not answered to its end."""
        return self.writer.fail(problem_of(error).message)

    async def frames(self, stream: AnswerStream | None = None) -> AsyncGenerator[bytes, None]:
        """The stream of events, from an answer's beginning."""
        try:
            async with stream or self.start() as deltas:
                async for delta in deltas:
                    frame = b"" if self.tokens else self._begin(delta)
                    frame += self._step(delta)
                    if frame:
                        yield frame
            yield self.writer.end(self.reason, self._usage())
        except (asyncio.CancelledError, GeneratorExit):  # the client has gone, or has cancelled it
            self.writer.cancel()
            raise

    def _begin(self, delta: Delta) -> bytes:
        self.cached = delta.begun.cached_tokens if delta.begun else 0
        return self.writer.begin()

    def _step(self, delta: Delta) -> bytes:
        self.tokens += 1
        pieces: list[Piece] = self.reader.push(delta.text)
        if delta.finish_reason:
            pieces += self.reader.flush()
            self.reason = delta.finish_reason
        logprobs = self._logprobs(delta)
        if logprobs and not pieces and self.form is None:
            pieces = [Words("")]  # the token is there, though its text is not yet
        frames = [self.writer.add(piece, logprobs if place == 0 else None) for place, piece in enumerate(pieces)]
        return b"".join(frames)

    def _logprobs(self, delta: Delta) -> list[dict[str, Any]]:
        if delta.logprobs is None:
            return []
        top = self.body.top_logprobs or 0
        found: list[dict[str, Any]] = chat_logprobs(self.model.tokenizer, [delta.token_id], [delta.logprobs], top)[
            "content"
        ]
        return found

    def _usage(self) -> dict[str, Any]:
        prompt = len(self.prompt.token_ids)
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": self.cached},
            "output_tokens": self.tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + self.tokens,
        }


def _empty(body: ResponseBody, model: str) -> dict[str, Any]:
    """A response before its answer: what was asked, with OpenAI's defaults."""
    given = body.model_dump(include={"instructions", "max_output_tokens", "metadata", "previous_response_id", "user"})
    choice = body.tool_choice if isinstance(body.tool_choice, str | None) else body.tool_choice.model_dump()
    text = {} if body.text is None else body.text.model_dump(by_alias=True, exclude_none=True)
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "queued",
        "background": bool(body.background),
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "reasoning": {"effort": None, "summary": None},
        "store": body.store is not False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": {"type": "text"}} | text,
        "tool_choice": choice or "auto",
        "tools": [tool.model_dump() for tool in body.tools or ()],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "usage": None,
        **given,
        "metadata": body.metadata or {},
    }


def _follow(store: ResponseStore, response_id: str, owner: Key | None) -> list[dict[str, Any]]:
    """The conversation up to and with a response. Raises ServerProblem unless it has ended."""
    stored = store.get(response_id, owner, "previous_response_id")
    if stored.response["status"] not in ("completed", "incomplete"):
        message = f"response {response_id} is {stored.response['status']}; only one with an answer can be gone on from"
        raise ServerProblem(400, message, param="previous_response_id")
    return [*stored.items, *stored.response["output"]]


async def _cancel(stored: Stored) -> None:
    if stored.task is not None:
        stored.task.cancel()
        await asyncio.wait((stored.task,))
        if stored.response["status"] == "queued":  # it had not begun to run
            stored.response["status"] = "cancelled"


def _owner(request: Request) -> Key | None:
    """The key that came with a request."""
    key: Key | None = request.scope.get("halfbyte.key")
    return key
