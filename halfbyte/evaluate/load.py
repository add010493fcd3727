"""Sends requests and keeps the time: to an engine here, or to any OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import TYPE_CHECKING, Any

from halfbyte.engine.sampling_params import SamplingParams
from halfbyte.errors import EvaluationError, HalfbyteError
from halfbyte.evaluate.serving import Timing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from halfbyte.engine.async_engine import AsyncEngine
    from halfbyte.engine.llm import LLM

    Ask = Callable[[list[int]], Awaitable[Timing]]


def random_prompts(count: int, length: int, vocabulary: int, seed: int) -> list[list[int]]:
    """Prompts of random token ids: they share nothing that a cache could keep."""
    rng = random.Random(seed)
    return [[rng.randrange(vocabulary) for _ in range(length)] for _ in range(count)]


def greedy(tokens: int) -> SamplingParams:
    """Exactly so many tokens."""
    return SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)


def all_at_once(llm: LLM, prompts: list[list[int]], tokens: int) -> tuple[list[Timing], float]:
    """All prompts to an engine of this process; what each got, and the seconds in all."""
    engine, start = llm.engine, time.perf_counter()
    timings = {engine.add(prompt, greedy(tokens)): Timing(start, len(prompt)) for prompt in prompts}
    while engine.has_work:
        events = engine.step()
        now = time.perf_counter()
        for request, result in events:
            if isinstance(result, HalfbyteError):
                timings[request].error = str(result)
            else:
                timings[request].arrivals.append(now)
    return list(timings.values()), time.perf_counter() - start


async def at_a_rate(
    ask: Ask, prompts: list[list[int]], rate: float, concurrency: int, seed: int
) -> tuple[list[Timing], float]:
    """Requests that arrive at random, `rate` a second on average (a Poisson process; inf: all at once).

    No more than `concurrency` are under way; the time that others wait for that is not counted.
    """
    rng, places = random.Random(seed), asyncio.Semaphore(concurrency)
    start = time.perf_counter()

    async def one(prompt: list[int]) -> Timing:
        async with places:
            return await ask(prompt)

    tasks = []
    for prompt in prompts:
        tasks.append(asyncio.ensure_future(one(prompt)))
        await asyncio.sleep(rng.expovariate(rate) if rate != float("inf") else 0)
    timings = await asyncio.gather(*tasks)
    return timings, time.perf_counter() - start


def ask_engine(engine: AsyncEngine, tokens: int) -> Ask:
    """To an engine in another process."""

    async def ask(prompt: list[int]) -> Timing:
        timing = Timing(time.perf_counter(), len(prompt))
        try:
            async for _ in engine.generate({"prompt_token_ids": prompt}, greedy(tokens)):
                timing.arrivals.append(time.perf_counter())
        except HalfbyteError as error:
            timing.error = str(error)
        return timing

    return ask


def ask_server(client: Any, url: str, model: str, tokens: int) -> Ask:
    """To `URL/completions`, streamed. client: an httpx.AsyncClient. `url` ends with /v1."""
    import httpx  # noqa: PLC0415  an extra

    body = {"model": model, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True}
    body["stream_options"] = {"include_usage": True}

    async def ask(prompt: list[int]) -> Timing:
        timing = Timing(time.perf_counter(), len(prompt))
        try:
            async with client.stream("POST", f"{url}/completions", json=body | {"prompt": prompt}) as response:
                if response.status_code != 200:
                    timing.error = f"status {response.status_code}: {(await response.aread())[:200]!r}"
                    return timing
                async for line in response.aiter_lines():
                    if line.startswith("data:") and line[5:].strip() != "[DONE]":
                        _read_event(json.loads(line[5:]), timing)
        except (httpx.HTTPError, ValueError) as error:
            timing.error = f"{type(error).__name__}: {error}"
        return timing

    return ask


async def first_model(client: Any, url: str) -> str:
    """The name of a model that the server has. Raises EvaluationError if it cannot be asked."""
    import httpx  # noqa: PLC0415  an extra

    try:
        response = await client.get(f"{url}/models")
        return str(response.raise_for_status().json()["data"][0]["id"])
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        raise EvaluationError(f"{url}/models: {error}; --url must name an OpenAI-compatible server") from error


def _read_event(event: dict[str, Any], timing: Timing) -> None:
    if "error" in event:
        timing.error = str(event["error"])
    if event.get("choices"):
        timing.arrivals.append(time.perf_counter())
    if event.get("usage"):
        timing.tokens = int(event["usage"]["completion_tokens"])
        timing.prompt_tokens = int(event["usage"]["prompt_tokens"])
