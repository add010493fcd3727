"""POST /v1/completions: prompts as they are, without a chat template."""

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
from halfbyte.server.generation import complete_all, stream_all
from halfbyte.server.openai.chunks import ChunkWriter
from halfbyte.server.openai.failure import failed_stream
from halfbyte.server.openai.logprobs import CompletionLogprobs
from halfbyte.server.openai.prompts import read_prompts
from halfbyte.server.openai.protocol import CompletionBody
from halfbyte.server.openai.sampling import answers, is_greedy, sampling_params
from halfbyte.server.openai.usage import Usage
from halfbyte.server.sse import DONE, event_stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from halfbyte.engine.outputs import CompletionOutput, Delta, LogprobsOfStep, RequestOutput
    from halfbyte.engine.prompt import ReadPrompt
    from halfbyte.engine.sampling_params import SamplingParams
    from halfbyte.server.models import Models, ServedModel
    from halfbyte.server.settings import ServerSettings

DEFAULT_MAX_TOKENS = 16  # OpenAI's


def router(models: Models, settings: ServerSettings) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1", tags=["openai"], route_class=StrictRoute)

    @routes.post("/completions", responses=also("text/event-stream"))
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
        self.skips_answer = body.max_tokens == 0  # the engine makes at least one token; it is not shown then
        self.id, self.created = f"cmpl-{uuid.uuid4().hex}", int(time.time())

    @classmethod
    async def of(cls, body: CompletionBody, model: ServedModel, most: int) -> _Asked:
        """Read the prompts' tokens."""
        prompts = await read_prompts(
            body.prompt, model, "prompt", most,
            keep=body.truncate_prompt_tokens, add_special_tokens=body.add_special_tokens,
        )  # fmt: skip
        return cls(body, model, prompts)

    async def complete(self) -> dict[str, Any]:
        """The response's body."""
        outputs = await complete_all(self.model, self.prompts, self.params, self.body.priority)
        choices = [choice for output in outputs for choice in self._choices(output)]
        for index, choice in enumerate(choices):
            choice["index"] = index
        usage = Usage(sum(len(output.prompt_token_ids) for output in outputs))
        usage.cached_tokens = sum(output.num_cached_tokens or 0 for output in outputs)
        if not self.skips_answer:
            usage.completion_tokens = sum(len(a.token_ids) for output in outputs for a in output.outputs)
        about = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model.name}
        made_by = {"system_fingerprint": self.model.fingerprint}
        return {**about, "choices": choices, "usage": usage.as_dict(), **made_by}

    def _choices(self, output: RequestOutput) -> list[dict[str, Any]]:
        choices = []
        for answer in output.outputs:
            choice = {"index": 0, "text": answer.text, "finish_reason": answer.finish_reason}
            choice["logprobs"] = self._logprobs(output, answer)
            if self.skips_answer:
                choice |= {"text": self._echoed(output.prompt_token_ids), "finish_reason": "length"}
            choices += [choice.copy() for _ in range(self.copies)]
        return choices

    def _logprobs(self, output: RequestOutput, answer: CompletionOutput) -> dict[str, Any] | None:
        if self.body.logprobs is None:
            return None
        found = self._begin_logprobs(output.prompt_token_ids, output.prompt_logprobs)
        if not self.skips_answer:
            for token, step in zip(answer.token_ids, answer.logprobs or (), strict=True):
                found.add(token, step)
        return found.take()

    def _begin_logprobs(self, prompt: list[int], steps: list[LogprobsOfStep | None] | None) -> CompletionLogprobs:
        """Of an answer, with those of the prompt that it echoes."""
        found = CompletionLogprobs(self.model.tokenizer, skip_special_tokens=self.body.skip_special_tokens)
        if steps is not None:
            found.add_prompt(prompt, steps)
        return found

    def _echoed(self, prompt: list[int]) -> str:
        if not self.body.echo:
            return ""
        return self.model.tokenizer.decode(prompt, skip_special_tokens=self.body.skip_special_tokens)

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """The stream."""
        usage, options = Usage(sum(len(prompt.token_ids) for prompt in self.prompts)), self.body.stream_options
        told = usage if options and options.include_usage else None
        always = bool(options and options.continuous_usage_stats)
        write = ChunkWriter("text_completion", self.id, self.model, self.created, told, always=always)
        each = self.drawn * self.copies
        logprobs = _StreamedLogprobs(self) if self.body.logprobs is not None else None
        async with aclosing(stream_all(self.model, self.prompts, self.params, self.body.priority)) as steps:
            async for number, delta in steps:
                text, finish = delta.text, delta.finish_reason
                usage.began(delta.begun)
                if self.skips_answer:
                    text, finish = self._echoed(self.prompts[number].token_ids), "length"
                else:
                    usage.completion_tokens += 1
                found = "null" if logprobs is None else logprobs.of(number, delta)
                if text or finish or logprobs is not None:
                    first = number * each + delta.index
                    for index in range(first, first + self.copies):
                        yield write.text(index, text, finish, found)
        yield write.usage() + DONE


class _StreamedLogprobs:
    """Those of each chunk of a stream, as JSON."""

    def __init__(self, asked: _Asked) -> None:
        self._asked = asked
        self._prompts: dict[int, list[LogprobsOfStep | None]] = {}
        self._answers: dict[tuple[int, int], CompletionLogprobs] = {}

    def of(self, number: int, delta: Delta) -> str:
        """Of a step of an answer to the prompt of that number."""
        if delta.prompt_logprobs is not None:
            self._prompts[number] = delta.prompt_logprobs
        answer = self._answers.get((number, delta.index))
        if answer is None:
            prompt = self._asked.prompts[number].token_ids
            answer = self._asked._begin_logprobs(prompt, self._prompts.get(number))
            self._answers[number, delta.index] = answer
        if not self._asked.skips_answer:
            answer.add(delta.token_id, delta.logprobs)
        return json.dumps(answer.take())


def _params(body: CompletionBody, drawn: int) -> SamplingParams:
    max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else max(body.max_tokens, 1)
    more: dict[str, Any] = {"max_tokens": max_tokens, "n": drawn, "echo": bool(body.echo), "logprobs": body.logprobs}
    if body.best_of is not None and not is_greedy(body):  # greedy answers are all the same
        more["best_of"] = body.best_of
    if body.echo and body.logprobs is not None:
        more["prompt_logprobs"] = body.logprobs
    return sampling_params(body, **more)
