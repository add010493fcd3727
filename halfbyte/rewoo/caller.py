"""One call of a tool as a run makes it: cached, capped, timed, tried again."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from halfbyte.errors import ToolError
from halfbyte.rewoo.limits import Spent
from halfbyte.rewoo.trace import Attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from halfbyte.rewoo.cache import Cache
    from halfbyte.rewoo.limits import Limits
    from halfbyte.rewoo.tool import Evidence, Tool
    from halfbyte.rewoo.trace import StepTrace


MOST_OF_AN_ERROR = 1000  # characters of a tool's exception: it goes into traces, and as a gap into models' prompts


class Caller:
    """Calls tools within the limits of one run."""

    def __init__(
        self, tools: Mapping[str, Tool], limits: Limits, cache: Cache, clock: Callable[[], float], spent: Spent
    ) -> None:
        """clock: seconds since the run began."""
        self._limits, self._cache, self._clock, self.spent = limits, cache, clock, spent
        self._total = asyncio.Semaphore(limits.concurrency)
        self._slots = {
            tool.name: asyncio.Semaphore(cap)
            for tool in tools.values()
            if (cap := limits.per_tool.get(tool.name, tool.concurrency)) is not None
        }

    async def evidence(self, tool: Tool, argument: str, step: StepTrace) -> Evidence:
        """What the tool says to an argument. Raises ToolError when all attempts have failed."""
        if not tool.cacheable:
            return await self._attempts(tool, argument, step)
        key = (tool.name, argument)
        async with self._cache.lock(key):
            kept = self._cache.get(key)
            if kept is not None:
                step.origin = "cache"
                return kept
            evidence = await self._attempts(tool, argument, step)
            self._cache.put(key, evidence)
            return evidence

    async def _attempts(self, tool: Tool, argument: str, step: StepTrace) -> Evidence:
        delay = self._limits.first_delay
        while True:
            try:
                return await self._attempt(tool, argument, step)
            except ToolError as e:
                if not e.retryable or len(step.attempts) > tool.retries:
                    raise
                wait = max(e.wait, delay * random.uniform(0.5, 1))
            await asyncio.sleep(min(wait, self._limits.longest_delay))
            delay *= 2

    async def _attempt(self, tool: Tool, argument: str, step: StepTrace) -> Evidence:
        async with AsyncExitStack() as slots:
            if tool.name in self._slots:
                await slots.enter_async_context(self._slots[tool.name])
            await slots.enter_async_context(self._total)
            self.spent.begin_call(self._limits)
            attempt = Attempt(self._clock())
            step.attempts.append(attempt)
            try:
                return self._take(await self._timed(tool, argument))
            except ToolError as e:
                attempt.error = str(e)
                raise
            finally:
                attempt.end = self._clock()

    async def _timed(self, tool: Tool, argument: str) -> Evidence:
        try:
            async with asyncio.timeout(tool.timeout):
                return await tool.call(argument)
        except TimeoutError:
            raise ToolError(f"no answer within {tool.timeout:g} s", retryable=True) from None
        except ToolError:
            raise
        except Exception as e:  # a tool may fail with anything
            said = str(e)
            if len(said) > MOST_OF_AN_ERROR:
                said = f"{said[:MOST_OF_AN_ERROR]} [cut off after {MOST_OF_AN_ERROR} characters]"
            raise ToolError(f"{type(e).__name__}: {said}" if said else type(e).__name__) from e

    def _take(self, evidence: Evidence) -> Evidence:
        self.spent.prompt_tokens += evidence.prompt_tokens
        self.spent.completion_tokens += evidence.completion_tokens
        most = self._limits.evidence_chars
        if len(evidence.text) > most:
            return replace(evidence, text=evidence.text[:most] + f" [cut off after {most} characters]")
        return evidence
