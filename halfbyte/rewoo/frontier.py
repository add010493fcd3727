"""The scheduler: a step starts when the evidence that it waits for is there, whoever hands it in and when."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from halfbyte.errors import RunError, ToolError
from halfbyte.rewoo.plan import interpolate
from halfbyte.rewoo.trace import StepTrace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from halfbyte.rewoo.caller import Caller
    from halfbyte.rewoo.plan import Step
    from halfbyte.rewoo.tool import Tool


class Frontier:
    """Steps of one run. Add them in any order, within the task group; it ends when all have ended."""

    def __init__(
        self,
        group: asyncio.TaskGroup,
        tools: Mapping[str, Tool],
        caller: Caller,
        clock: Callable[[], float],
        *,
        skip_failures: bool,
        earlier: Mapping[int, StepTrace],
        observe: Callable[[StepTrace], None] | None,
    ) -> None:
        """earlier: steps of a run that is resumed. observe: called whenever a step's status has changed."""
        self._group, self._tools, self._caller, self._clock = group, tools, caller, clock
        self._skip, self._earlier, self._observe = skip_failures, earlier, observe
        self._steps: dict[int, Step] = {}
        self._waits_for: dict[int, int] = {}  # how many steps are still to end before this one can start
        self._users: dict[int, list[int]] = {}
        self.evidence: dict[int, str] = {}  # of every step that has ended; for gaps, the text that states them
        self.gaps: set[int] = set()
        self.traces: dict[int, StepTrace] = {}

    def add(self, step: Step) -> None:
        """Take a step, and start it if it waits for nothing."""
        self._steps[step.id] = step
        self.traces[step.id] = StepTrace.of(step)
        missing = [d for d in step.depends_on if d not in self.evidence]
        self._waits_for[step.id] = len(missing)
        for d in missing:
            self._users.setdefault(d, []).append(step.id)
        if not missing:
            self._start(step)

    def _start(self, step: Step) -> None:
        self._group.create_task(self._run(step), name=step.label)

    async def _run(self, step: Step) -> None:
        trace = self.traces[step.id]
        trace.start = self._clock()
        try:
            await self._settle(step, trace)
        except asyncio.CancelledError:
            trace.status = "cancelled"
            raise
        finally:
            trace.end = self._clock()
            self._tell(trace)
        for user in self._users.pop(step.id, ()):
            self._waits_for[user] -= 1
            if self._waits_for[user] == 0:
                self._start(self._steps[user])

    async def _settle(self, step: Step, trace: StepTrace) -> None:
        tool = self._tools[step.tool]
        missing = [self._steps[d].label for d in step.depends_on if d in self.gaps]
        trace.input = interpolate(step.argument, step.references, self.evidence)
        if missing and not tool.takes_gaps:
            trace.status = "skipped"
            self._gap(step, trace, f"{' and '.join(missing)} is missing")
            return
        trace.status = "running"
        self._tell(trace)
        try:
            await self._call(tool, trace)
        except ToolError as e:
            trace.status = "failed"
            if not self._skip:
                trace.error = str(e)
                raise RunError(f"{step.label} = {step.tool}[…], line {step.line}: {e}") from e
            self._gap(step, trace, f"{step.tool} failed: {e}")

    async def _call(self, tool: Tool, trace: StepTrace) -> None:
        assert trace.input is not None
        before = self._earlier.get(trace.id)
        if before and (before.status, before.tool, before.input) == ("done", trace.tool, trace.input):
            trace.origin = "earlier run"
            trace.evidence, trace.sources = before.evidence or "", before.sources
        else:
            evidence = await self._caller.evidence(tool, trace.input, trace)
            trace.evidence, trace.sources = evidence.text, list(evidence.sources)
            if trace.origin == "call":
                trace.prompt_tokens, trace.completion_tokens = evidence.prompt_tokens, evidence.completion_tokens
        trace.status = "done"
        self.evidence[trace.id] = trace.evidence

    def _gap(self, step: Step, trace: StepTrace, why: str) -> None:
        trace.error = why
        trace.evidence = self.evidence[step.id] = f"[no evidence: {why}]"
        self.gaps.add(step.id)

    def _tell(self, trace: StepTrace) -> None:
        if self._observe:
            self._observe(trace)
