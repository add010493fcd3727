"""Asks a model several prompts at once, as one request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from halfbyte.engine.outputs import Delta, RequestOutput
    from halfbyte.engine.prompt import ReadPrompt
    from halfbyte.engine.sampling_params import SamplingParams
    from halfbyte.server.models import ServedModel

AT_ONCE = 64  # prompts of one request in the engine; more wait here, so that a batch does not fill the queue

Step = tuple[int, "Delta"]  # which of the prompts, and a step of its answers


async def complete_all(
    model: ServedModel, prompts: Sequence[ReadPrompt], params: SamplingParams, priority: int = 0
) -> list[RequestOutput]:
    """Their outputs, in order. If one fails, the others are aborted and its error is raised."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(prompt: ReadPrompt) -> RequestOutput:
        async with room:
            return await model.complete(prompt, params, priority=priority)

    return await together([one(prompt) for prompt in prompts])


async def together(work: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """All results, in order; the first failure cancels the rest and is raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def stream_all(
    model: ServedModel, prompts: Sequence[ReadPrompt], params: SamplingParams, priority: int = 0
) -> AsyncGenerator[Step, None]:
    """Steps as they come, with the number of the prompt. Closing it aborts what is not finished."""
    if len(prompts) == 1:
        async with model.generate(prompts[0], params, priority=priority) as stream:
            async for delta in stream:
                yield 0, delta
        return
    async with aclosing(_merged(model, prompts, params, priority)) as steps:
        async for step in steps:
            yield step


async def _merged(
    model: ServedModel, prompts: Sequence[ReadPrompt], params: SamplingParams, priority: int
) -> AsyncGenerator[Step, None]:
    queue: asyncio.Queue[Step | None] = asyncio.Queue()
    room = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with room, model.generate(prompts[number], params, priority=priority) as stream:
            async for delta in stream:
                queue.put_nowait((number, delta))

    async def everything() -> None:
        try:
            await together([one(number) for number in range(len(prompts))])
        finally:
            queue.put_nowait(None)

    job = asyncio.ensure_future(everything())
    try:
        while (step := await queue.get()) is not None:
            yield step
        await job
    finally:
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)
