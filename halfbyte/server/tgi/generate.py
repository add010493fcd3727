"""Answers in TGI's shape, whole or as events.

Log-probabilities are the network's own, before any parameter; TGI gives those after its warpers.
"""

from __future__ import annotations

import json
import secrets
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from fastapi.responses import JSONResponse

from halfbyte.engine.sampling_params import SamplingParams
from halfbyte.server.disconnect import while_connected
from halfbyte.server.problems import ServerProblem
from halfbyte.server.reading import cut, read_text
from halfbyte.server.sse import event_stream
from halfbyte.server.tgi.failure import failed
from halfbyte.server.tgi.tokens import TokenWriter, prefill

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from fastapi import Request, Response

    from halfbyte.engine.outputs import CompletionOutput, Delta, RequestOutput
    from halfbyte.engine.prompt import ReadPrompt
    from halfbyte.server.models import Models, ServedModel
    from halfbyte.server.tgi.protocol import GenerateBody, Parameters


async def answer(body: GenerateBody, models: Models, request: Request, *, listed: bool = False) -> Response:
    """The whole answer. listed: in a list of one, as POST / gives it."""
    asked = await Asked.of(body, models)
    found = await while_connected(request.receive, asked.complete())
    return JSONResponse([found] if listed else found)


async def stream(body: GenerateBody, models: Models, request: Request) -> Response:
    """The answer as server-sent events, one for each token."""
    given = body.asked
    if (given.best_of or 1) > 1:
        raise ServerProblem(422, "best_of != 1 is not supported when streaming tokens", param="best_of")
    if given.decoder_input_details:
        message = "decoder_input_details == true is not supported when streaming tokens"
        raise ServerProblem(422, message, param="decoder_input_details")
    asked = await Asked.of(body, models, streams=True)
    return await event_stream(request, asked.events(), lambda error: _event(failed(error)))


class Asked:
    """One request, checked."""

    def __init__(self, body: GenerateBody, model: ServedModel, prompt: ReadPrompt, *, streams: bool) -> None:
        self.body, self.model, self.prompt, self.given = body, model, prompt, body.asked
        self.seed = _seed(self.given)
        self.params = _params(self.given, self.seed, streams=streams)

    @classmethod
    async def of(cls, body: GenerateBody, models: Models, *, streams: bool = False) -> Asked:
        """Read the prompt's tokens."""
        model = models.get(body.asked.adapter_id)
        prompt = cut(await read_text(model, body.inputs), body.asked.truncate)
        return cls(body, model, prompt, streams=streams)

    async def complete(self) -> dict[str, Any]:
        """The response's body."""
        output = await self.model.complete(self.prompt, self.params)
        best, *others = sorted(output.outputs, key=_mean_logprob, reverse=True)
        found: dict[str, Any] = {"generated_text": self._text(best.text)}
        if self.given.details:
            found["details"] = self._details(output, best)
            if others:
                sequences = [self._details(output, o) | {"generated_text": self._text(o.text)} for o in others]
                found["details"]["best_of_sequences"] = sequences
        return found

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The stream."""
        write, texts, number = TokenWriter(self.model.tokenizer), [], 0
        answers = self.model.generate(self.prompt, self.params)
        async with aclosing(answers):
            async for delta in answers:
                number += 1
                texts.append(delta.text)
                event: dict[str, Any] = {"index": number, "token": write.add(delta.token_id, delta.logprobs)}
                if self.given.top_n_tokens and delta.logprobs:
                    event["top_tokens"] = write.top(delta.logprobs, self.given.top_n_tokens)
                event |= {"generated_text": None, "details": None}
                if delta.finish_reason:
                    event["generated_text"] = self._text("".join(texts))
                    event["details"] = {
                        "finish_reason": finish_reason(delta),
                        "generated_tokens": number,
                        "seed": self.seed,
                        "input_length": len(self.prompt.token_ids),
                    }
                yield _event(event)

    def _text(self, text: str) -> str:
        return self.body.inputs + text if self.given.return_full_text else text

    def _details(self, output: RequestOutput, answer: CompletionOutput) -> dict[str, Any]:
        write, steps = TokenWriter(self.model.tokenizer), answer.logprobs or []
        found: dict[str, Any] = {
            "finish_reason": finish_reason(answer),
            "generated_tokens": len(answer.token_ids),
            "seed": self.seed,
            "prefill": [],
            "tokens": [write.add(token, step) for token, step in zip(answer.token_ids, steps, strict=True)],
        }
        if output.prompt_logprobs is not None:
            found["prefill"] = prefill(self.model.tokenizer, output.prompt_token_ids, output.prompt_logprobs)
        if self.given.top_n_tokens:
            found["top_tokens"] = [write.top(step, self.given.top_n_tokens) for step in steps]
        return found


def finish_reason(ended: Delta | CompletionOutput) -> str:
    """In TGI's words."""
    if ended.finish_reason == "length":
        return "length"
    return "stop_sequence" if isinstance(ended.stop_reason, str) else "eos_token"


def _params(given: Parameters, seed: int | None, *, streams: bool) -> SamplingParams:
    found: dict[str, Any] = {
        "max_tokens": 100 if given.max_new_tokens is None else given.max_new_tokens,
        "temperature": (given.temperature or 1.0) if given.samples else 0.0,
        "seed": seed,
        "stop": given.stop,
        "include_stop_str_in_output": True,  # TGI leaves it there
        "n": given.best_of or 1,
    }
    for name in ("top_k", "top_p", "typical_p", "repetition_penalty", "frequency_penalty"):
        if getattr(given, name) is not None:
            found[name] = getattr(given, name)
    if streams or given.details or (given.best_of or 1) > 1:
        found["logprobs"] = given.top_n_tokens or 0
    if given.decoder_input_details and given.details:
        found["prompt_logprobs"] = 0
    return SamplingParams(**found, **(given.grammar.as_parameter() if given.grammar else {}))


def _seed(given: Parameters) -> int | None:
    """TGI tells the seed, so that an answer can be had again."""
    if not given.samples:
        return None
    return secrets.randbits(62) + 1 if given.seed is None else given.seed


def _mean_logprob(answer: CompletionOutput) -> float:
    steps = zip(answer.token_ids, answer.logprobs or (), strict=False)
    return sum(step[token].logprob for token, step in steps) / max(len(answer.token_ids), 1)


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()
