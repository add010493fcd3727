"""Runs plans: everything is checked first, then each step runs as soon as its evidence is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from halfbyte.errors import PlanError, RunError, ToolError
from halfbyte.rewoo.cache import Cache
from halfbyte.rewoo.caller import Caller
from halfbyte.rewoo.frontier import Frontier
from halfbyte.rewoo.limits import Limits, OnFailure, Spent
from halfbyte.rewoo.parser import argument_checks, finish_plan, parse_plan
from halfbyte.rewoo.plan import interpolate
from halfbyte.rewoo.planner import planner_prompt, repair_prompt, solver_prompt
from halfbyte.rewoo.reader import PlanReader
from halfbyte.rewoo.tool import Evidence, tool_table
from halfbyte.rewoo.trace import Trace
from halfbyte.rewoo.validate import check_plan

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping

    from halfbyte.rewoo.plan import Plan
    from halfbyte.rewoo.tool import Tool
    from halfbyte.rewoo.trace import StepTrace

    Ask = Callable[[str], Awaitable[str | Evidence]]  # a prompt to a model's answer


@dataclass(frozen=True, slots=True)
class Result:
    """The answer and what it rests on."""

    answer: str
    evidence: dict[int, str]  # by step
    gaps: tuple[int, ...]  # steps that have none, under "skip"; their evidence says so
    trace: Trace
    plan: Plan

    @property
    def sources(self) -> tuple[str, ...]:
        """Addresses that evidence is from, each once."""
        return tuple(dict.fromkeys(source for step in self.trace.steps for source in step.sources))


class Executor:
    """Runs plans with a set of tools. May be used for several plans, one after another or at the same time."""

    def __init__(
        self,
        tools: Iterable[Tool | Callable[..., Any]] | Mapping[str, Tool | Callable[..., Any]],
        *,
        limits: Limits | None = None,
        on_failure: OnFailure = "stop",
        planner: Ask | None = None,
        solver: Ask | None = None,
        cache: Cache | None = None,
        observe: Callable[[StepTrace], None] | None = None,
    ) -> None:
        """Take tools, or functions that become tools, as a list or by name.

        on_failure: when a step has failed for good, "stop" raises RunError; "skip" states the gap in place of its
        evidence and goes on; "replan" shows the planner the error, once, and runs the plan that it then writes.
        planner: the model that plans, for "replan". solver: the model that answers where a plan has no Answer.
        cache: kept between runs; otherwise each run has its own. observe: called when a step's status has changed.
        """
        if on_failure not in get_args(OnFailure):
            raise RunError(f"on_failure is {on_failure!r}; it must be 'stop', 'skip' or 'replan'")
        if on_failure == "replan" and planner is None:
            raise RunError("on_failure='replan' needs a planner")
        self.tools = tool_table(tools)
        self.limits = limits or Limits()
        self._on_failure, self._planner, self._solver = on_failure, planner, solver
        self._cache, self._observe = cache, observe

    async def run(
        self, plan: Plan | str, *, question: str = "", resume: Trace | None = None, trace: Trace | None = None
    ) -> Result:
        """Run a plan, or a text to be parsed first.

        question: what the plan is to answer, for a solver or a new plan. resume: the trace of an earlier run, whose
        evidence is taken for every step whose input is the same. trace: is written into, so that the caller has what
        happened even if the run is cancelled.

        Raises PlanError before anything runs, and RunError, with the trace, if the run had to stop. If it is cancelled,
        nothing is left running.
        """
        run = _Run(self, question, self._cache or Cache(), Spent(), resume, trace=trace)
        try:
            return await run.whole(plan if not isinstance(plan, str) else self._parse(plan))
        except (PlanError, RunError) as e:
            if self._on_failure != "replan" or run.out_of_time:
                raise
            text = plan if isinstance(plan, str) else plan.text
            return await self._run_another(run, text, e)

    async def run_stream(self, text: AsyncIterable[str], *, question: str = "", trace: Trace | None = None) -> Result:
        """Run a plan while it is being written: each step is checked by itself and starts when it is complete.

        Raises PlanError as soon as something is wrong with the plan, which may be after steps have run.
        """
        run = _Run(self, question, self._cache or Cache(), Spent(), None, trace=trace)
        return await run.stream(text)

    async def resume(self, trace: Trace) -> Result:
        """Run the plan of a trace again, with the evidence that is there."""
        return await self.run(trace.plan, question=trace.question, resume=trace)

    def _parse(self, text: str) -> Plan:
        return parse_plan(text, self.tools, without_answer="solver" if self._solver else "last")

    async def _run_another(self, failed: _Run, text: str, error: PlanError | RunError) -> Result:
        assert self._planner
        problems = error.problems if isinstance(error, PlanError) else [str(error)]
        prompt = repair_prompt(
            planner_prompt(self.tools.values(), failed.trace.question), text, [str(p) for p in problems]
        )
        failed.trace.plan, failed.trace.status, failed.trace.error = text, "failed", str(error)
        try:
            async with asyncio.timeout(failed.seconds_left()):
                answer = _evidence(await self._planner(prompt))
        except ToolError as e:
            raise RunError(f"{error}; then the planner failed: {e}", failed.trace) from e
        except TimeoutError:
            raise RunError(f"{error}; then the budget of {self.limits.seconds:g} s was used up", failed.trace) from None
        failed.count(answer)
        failed.trace.renew()
        spent = failed.caller.spent
        run = _Run(self, failed.trace.question, failed.cache, spent, None, failed.began, failed.trace)
        return await run.whole(self._parse(answer.text))


class _Run:
    """One run of one plan."""

    def __init__(
        self,
        executor: Executor,
        question: str,
        cache: Cache,
        spent: Spent,
        resume: Trace | None,
        began: float | None = None,
        trace: Trace | None = None,
    ) -> None:
        self._executor, self.cache = executor, cache
        self._earlier = {step.id: step for step in resume.steps} if resume else {}
        self.began = time.perf_counter() if began is None else began
        self.caller = Caller(executor.tools, executor.limits, cache, self._clock, spent)
        self.trace = Trace() if trace is None else trace
        self.trace.question = question
        self.out_of_time = False

    def _clock(self) -> float:
        return time.perf_counter() - self.began

    def count(self, evidence: Evidence) -> None:
        """Add what a model has used outside of a step."""
        self.caller.spent.prompt_tokens += evidence.prompt_tokens
        self.caller.spent.completion_tokens += evidence.completion_tokens

    async def whole(self, plan: Plan) -> Result:
        """Check a plan, then run it."""
        check_plan(plan, self._executor.tools)
        self._check_solver(plan)
        self.trace.plan = plan.text

        async def all_steps(frontier: Frontier) -> Plan:
            for step in plan.steps:
                frontier.add(step)
            return plan

        return await self._run(all_steps)

    async def stream(self, text: AsyncIterable[str]) -> Result:
        """Run steps as they are read."""
        reader = PlanReader(argument_checks(self._executor.tools))

        async def steps_as_read(frontier: Frontier) -> Plan:
            pieces: list[str] = []
            try:
                async with AsyncExitStack() as stack:
                    if isinstance(text, AsyncGenerator):
                        await stack.enter_async_context(aclosing(text))
                    async for piece in text:
                        pieces.append(piece)
                        for step in reader.feed(piece):
                            frontier.add(step)
                        if reader.notes.problems:
                            break
            finally:
                self.trace.plan = "".join(pieces)
            for step in reader.close():
                frontier.add(step)
            plan = finish_plan(reader, self.trace.plan, "solver" if self._executor._solver else "last")
            self._check_solver(plan)
            return plan

        return await self._run(steps_as_read)

    def _check_solver(self, plan: Plan) -> None:
        if plan.answer is None and self._executor._solver is None:
            raise RunError("the plan leaves its answer to a solver: give the executor one")

    async def _run(self, add_steps: Callable[[Frontier], Awaitable[Plan]]) -> Result:
        frontier: Frontier | None = None
        limits = self._executor.limits
        try:
            async with asyncio.timeout(self.seconds_left()) as alarm:
                async with asyncio.TaskGroup() as group:
                    frontier = self._frontier(group)
                    plan = await add_steps(frontier)
                answer = await self._answer(plan, frontier)
        except BaseExceptionGroup as group_error:
            self._end("failed", frontier, None)
            raise self._told(group_error) from None
        except ToolError as e:
            self._end("failed", frontier, None)
            raise RunError(f"the solver failed: {e}", self.trace) from e
        except TimeoutError:
            self.out_of_time = alarm.expired()
            self._end("failed", frontier, None)
            raise RunError(f"the budget of {limits.seconds:g} s is used up", self.trace) from None
        except asyncio.CancelledError:
            self._end("cancelled", frontier, None)
            raise
        self._end("done", frontier, answer)
        gaps = tuple(sorted(frontier.gaps))
        return Result(answer, dict(frontier.evidence), gaps, self.trace, plan)

    def seconds_left(self) -> float | None:
        """Of the budget; None: there is none."""
        seconds = self._executor.limits.seconds
        return None if seconds is None else max(0.0, seconds - self._clock())

    def _frontier(self, group: asyncio.TaskGroup) -> Frontier:
        return Frontier(
            group,
            self._executor.tools,
            self.caller,
            self._clock,
            skip_failures=self._executor._on_failure == "skip",
            earlier=self._earlier,
            observe=self._executor._observe,
        )

    async def _answer(self, plan: Plan, frontier: Frontier) -> str:
        if plan.answer is not None:
            return interpolate(plan.answer, plan.answer_references, frontier.evidence)
        assert self._executor._solver
        told = [(step.plan, step.label, frontier.evidence[step.id]) for step in plan.steps]
        answer = _evidence(await self._executor._solver(solver_prompt(self.trace.question, told, plan.instruction)))
        self.count(answer)
        return answer.text

    def _told(self, group: BaseExceptionGroup) -> BaseException:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if isinstance(first, RunError):
            first.trace = self.trace
        self.trace.error = str(first)
        return first

    def _end(self, status: Any, frontier: Frontier | None, answer: str | None) -> None:
        spent = self.caller.spent
        self.trace.status, self.trace.answer, self.trace.seconds = status, answer, self._clock()
        self.trace.steps = sorted(frontier.traces.values(), key=lambda step: step.id) if frontier else []
        self.trace.calls = spent.calls
        self.trace.prompt_tokens, self.trace.completion_tokens = spent.prompt_tokens, spent.completion_tokens


def _evidence(answer: str | Evidence) -> Evidence:
    return answer if isinstance(answer, Evidence) else Evidence(answer)
