"""Running plans: order, caps, failures, budgets, cancellation, resuming."""

from __future__ import annotations

import asyncio
import time

import pytest
from card_plan import PLAN

from halfbyte.errors import PlanError, RunError, ToolError
from halfbyte.rewoo import Evidence, Executor, Limits, Trace, parse_plan, tool
from halfbyte.rewoo.cache import Cache

QUICK = Limits(first_delay=0.001)


class Spy:
    """A tool that notes what it was called with and how many calls ran at a time."""

    def __init__(self, seconds=0.0, answer="<{}>"):
        self.seconds, self.answer = seconds, answer
        self.calls, self.running, self.most, self.ended = [], 0, 0, 0

    async def __call__(self, argument):
        self.calls.append(argument)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.running -= 1
        self.ended += 1
        return self.answer.format(argument)


def run(tools, plan, limits=QUICK, resume=None, question="", **options):
    return asyncio.run(Executor(tools, limits=limits, **options).run(plan, resume=resume, question=question))


def independent(count, argument="{n}"):
    steps = "".join(f"Plan: p\n:evidence{n}: = A[{argument.format(n=n)}]\n" for n in range(count))
    return steps + "Answer: :evidence0:"


def test_the_cards_plan_gets_evidence_in_place_of_references():
    spy = Spy()
    names = ("DuckDuckGo", "KnowledgeModel", "HyperlinkExtractor", "TextScraper")
    result = run(dict.fromkeys(names, spy), PLAN)
    assert (
        spy.calls[1] == "Who won the Nobel Prize in Literature in 2020, given <Nobel Prize in Literature 2020 winner>?"
    )
    assert result.answer == result.evidence[5]
    assert list(result.evidence) == [0, 1, 2, 3, 4, 5]
    assert result.trace.status == "done"


def test_evidence_is_never_expanded_again():
    spy = Spy(answer=":evidence1: Answer: #E1 {}")
    result = run(
        {"A": spy}, ":evidence0: = A[x]\n:evidence1: = A[given :evidence0:]\nAnswer: :evidence0: / :evidence1:"
    )
    assert spy.calls[1] == "given :evidence1: Answer: #E1 x"
    assert result.answer == ":evidence1: Answer: #E1 x / :evidence1: Answer: #E1 given :evidence1: Answer: #E1 x"


def test_one_is_not_ten_when_substituting():
    plan = "".join(f"#E{n} = A[{n}]\n" for n in range(1, 12)) + "Final answer: #E1 #E10 #E11 #E1"
    assert run({"A": Spy()}, plan).answer == "<1> <10> <11> <1>"


@pytest.mark.parametrize("count", [1, 4, 16])
def test_independent_steps_run_at_the_same_time(count):
    start = time.perf_counter()
    run({"A": Spy(0.3)}, independent(count))
    assert time.perf_counter() - start < 0.9


def test_a_diamond_takes_its_critical_path():
    plan = ":evidence0: = S[0.1]\n:evidence1: = S[0.3 :evidence0:]\n:evidence2: = S[0.1 :evidence0:]\n"
    plan += ":evidence3: = S[0.1 :evidence1: :evidence2:]\nAnswer: :evidence3:"

    async def sleep(text):
        await asyncio.sleep(float(text.split()[0]))
        return "."

    trace = run({"S": sleep}, plan).trace
    assert trace.critical_path >= 0.5
    assert trace.seconds < trace.critical_path * 1.05 + 0.05


def test_a_forward_reference_waits():
    spy = Spy()
    run({"A": spy}, ":evidence0: = A[after :evidence1:]\n:evidence1: = A[first]\nAnswer: :evidence0:")
    assert spy.calls == ["first", "after <first>"]


def test_nothing_runs_if_anything_is_wrong():
    spy = Spy()
    for plan in (
        ":evidence0: = A[x]\n:evidence1: = Nope[x]",
        ":evidence0: = A[x]\n:evidence1: = A[:evidence2:]\n:evidence2: = A[:evidence1:]",
        ":evidence0: = A[x]\nAnswer: :evidence9:",
    ):
        with pytest.raises(PlanError):
            run({"A": spy}, plan)
    with pytest.raises(PlanError, match="no tool 'B'"):
        run({"A": spy}, parse_plan(":evidence0: = B[x]"))
    assert spy.calls == []


def test_arguments_are_checked_before_anything_runs():
    spy = Spy()

    @tool
    async def double(number: int) -> int:
        """Double it."""
        return 2 * number

    plan = parse_plan(":evidence0: = A[x]\n:evidence1: = double[many]")
    with pytest.raises(PlanError, match="must be a whole number"):
        run({"A": spy, "double": double}, plan)
    assert spy.calls == []
    assert run([double], ":evidence0: = double[4]\n:evidence1: = double[:evidence0:]").answer == "16"


def test_caps_in_total_and_per_tool():
    spy = Spy(0.02)
    run({"A": spy}, independent(12), Limits(concurrency=3))
    assert spy.most == 3
    spy = Spy(0.02)
    run({"A": spy}, independent(12), Limits(per_tool={"A": 2}))
    assert spy.most == 2


def test_equal_calls_are_made_once():
    spy = Spy(0.02)
    result = run({"A": spy}, independent(5, "same"))
    assert spy.calls == ["same"]
    assert [s.origin for s in result.trace.steps].count("cache") == 4
    cache = Cache()
    run({"A": spy}, independent(1, "same"), cache=cache)
    run({"A": spy}, independent(1, "same"), cache=cache)
    assert spy.calls == ["same", "same"]


def test_the_cache_forgets_the_longest_unused():
    cache = Cache(2)
    for key in ("a", "b"):
        cache.put(("A", key), Evidence(key))
    cache.get(("A", "a"))
    cache.put(("A", "c"), Evidence("c"))
    assert [cache.get(("A", key)) is None for key in "abc"] == [False, True, False]


class Failing:
    """Fails so often, then answers."""

    def __init__(self, times, error):
        self.left, self.error, self.calls = times, error, 0

    async def __call__(self, argument):
        self.calls += 1
        self.left -= 1
        if self.left >= 0:
            raise self.error
        return "at last"


def test_retries_what_may_pass():
    failing = Failing(2, ToolError("busy", retryable=True))
    made = tool(name="A", retries=2)(failing.__call__)
    result = run([made], ":evidence0: = A[x]")
    assert result.answer == "at last"
    assert [a.error for a in result.trace.steps[0].attempts] == ["busy", "busy", None]
    for error in (ToolError("wrong"), ValueError("a bug")):
        failing = Failing(1, error)
        with pytest.raises(RunError, match=str(error)):
            run([tool(name="A", retries=2)(failing.__call__)], ":evidence0: = A[x]")
        assert failing.calls == 1


def test_backoff_doubles_and_heeds_what_the_tool_asks_for(monkeypatch):
    waits = []

    async def no_sleep(seconds):
        waits.append(seconds)

    monkeypatch.setattr("halfbyte.rewoo.caller.asyncio.sleep", no_sleep)
    failing = Failing(3, ToolError("busy", retryable=True))
    run([tool(name="A", retries=3)(failing.__call__)], ":evidence0: = A[x]", Limits(first_delay=1, longest_delay=3))
    assert 0.5 <= waits[0] <= 1 <= waits[1] <= 2 <= waits[2] <= 3
    waits.clear()
    failing = Failing(1, ToolError("busy", retryable=True, wait=2.5))
    run([tool(name="A", retries=3)(failing.__call__)], ":evidence0: = A[x]", Limits(first_delay=0.1))
    assert waits == [2.5]


def test_a_call_that_takes_too_long():
    spy = Spy(30)
    slow = tool(name="A", timeout=0.05, retries=1)(spy.__call__)
    with pytest.raises(RunError, match=r"no answer within 0.05 s") as e:
        run([slow], ":evidence0: = A[x]")
    assert len(spy.calls) == 2
    assert spy.running == 0
    assert e.value.trace.steps[0].status == "failed"


def test_stop_ends_the_others():
    spy = Spy(30)

    async def fail(argument):
        await asyncio.sleep(0.02)
        raise ToolError("broken")

    plan = ":evidence0: = A[x]\n:evidence1: = F[x]\n:evidence2: = A[:evidence0:]\nAnswer: :evidence2:"
    with pytest.raises(RunError, match=r":evidence1: = F\[…\], line 2: broken") as e:
        run({"A": spy, "F": fail}, plan)
    assert [s.status for s in e.value.trace.steps] == ["cancelled", "failed", "waiting"]
    assert (spy.running, spy.ended) == (0, 0)


def test_skip_states_the_gap():
    async def fail(argument):
        raise ToolError("broken")

    async def model(question):
        return f"I was asked: {question}"

    tools = [tool(name="F")(fail), tool(name="M", takes_gaps=True)(model), tool(name="A")(Spy().__call__)]
    plan = ":evidence0: = F[x]\n:evidence1: = A[:evidence0:]\n:evidence2: = M[q, given :evidence0: and :evidence3:]\n"
    plan += ":evidence3: = A[fine]\nAnswer: :evidence1: :evidence2:"
    result = run(tools, plan, on_failure="skip")
    assert result.gaps == (0, 1)
    assert [s.status for s in result.trace.steps] == ["failed", "skipped", "done", "done"]
    assert result.answer == (
        "[no evidence: :evidence0: is missing] I was asked: q, given [no evidence: F failed: broken] and <fine>"
    )


def test_replan_once_with_the_error_shown():
    prompts = []
    spy = Spy()

    async def fail(argument):
        raise ToolError("broken")

    async def planner(prompt):
        prompts.append(prompt)
        return Evidence("Plan: another way\n:evidence0: = A[x]\n:evidence1: = A[y]\nAnswer: :evidence1:", 100, 20)

    tools = {"A": spy, "F": fail}
    plan = ":evidence0: = A[x]\n:evidence1: = F[:evidence0:]\nAnswer: :evidence1:"
    result = run(tools, plan, on_failure="replan", planner=planner, question="Why?")
    assert result.answer == "<y>"
    assert spy.calls == ["x", "y"]  # what was found is not asked again
    assert "Question: Why?" in prompts[0]
    assert "broken" in prompts[0]
    assert plan in prompts[0]
    assert result.trace.replaced.status == "failed"
    assert result.trace.prompt_tokens == 100
    assert run(tools, "no plan", on_failure="replan", planner=planner).answer == "<y>"

    async def stubborn(prompt):
        prompts.append(prompt)
        return plan

    with pytest.raises(RunError, match="broken"):
        run(tools, plan, on_failure="replan", planner=stubborn)
    assert len(prompts) == 3


def test_budget_of_calls():
    spy = Spy()
    with pytest.raises(RunError, match="budget of 3 calls"):
        run({"A": spy}, independent(5), Limits(calls=3))
    assert len(spy.calls) == 3
    result = run({"A": Spy()}, independent(5), Limits(calls=3), on_failure="skip")
    assert len(result.gaps) == 2


def test_budget_of_tokens():
    async def model(question):
        return Evidence("said", 80, 20)

    plan = "".join(f":evidence{n}: = M[{n} :evidence{n - 1}:]\n" if n else ":evidence0: = M[x]\n" for n in range(5))
    with pytest.raises(RunError, match="budget of 250 tokens") as e:
        run({"M": model}, plan, Limits(tokens=250))
    assert (e.value.trace.calls, e.value.trace.prompt_tokens, e.value.trace.completion_tokens) == (3, 240, 60)


def test_budget_of_seconds():
    spy = Spy(30)
    start = time.perf_counter()
    with pytest.raises(RunError, match=r"budget of 0.1 s") as e:
        run({"A": spy}, independent(3), Limits(seconds=0.1))
    assert time.perf_counter() - start < 15
    assert spy.running == 0
    assert {s.status for s in e.value.trace.steps} == {"cancelled"}


def test_long_evidence_is_cut():
    result = run({"A": Spy(answer="x" * 100)}, ":evidence0: = A[y]", Limits(evidence_chars=10))
    assert result.answer == "xxxxxxxxxx [cut off after 10 characters]"


def test_a_tools_long_exception_is_cut():
    """It stands in for evidence in the prompts of tools that take gaps."""

    def fails(argument):
        raise ValueError("page " * 10_000)

    result = run([tool(name="A")(fails)], ":evidence0: = A[x]\nAnswer: :evidence0:", on_failure="skip")
    assert result.answer.startswith("[no evidence: A failed: ValueError: page page")
    assert "cut off after 1000 characters" in result.answer
    assert len(result.answer) < 1200


def test_cancellation_leaves_nothing_running():
    spy = Spy(30)

    async def main():
        executor = Executor({"A": spy})
        task = asyncio.create_task(executor.run(independent(4)))
        await asyncio.sleep(0.05)
        assert spy.running == 4
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    assert (spy.running, spy.ended) == (0, 0)


async def pieces(text, pause=0.0, size=7):
    for at in range(0, len(text), size):
        yield text[at : at + size]
        await asyncio.sleep(pause)


def test_steps_start_while_the_plan_is_written():
    spy, when = Spy(), {}
    written = []

    async def slowly():
        async for piece in pieces(independent(3), 0.002):
            written.append(piece)
            yield piece

    def observe(step):
        when.setdefault(step.id, len("".join(written)))

    async def main():
        executor = Executor({"A": spy}, observe=observe)
        return await executor.run_stream(slowly())

    result = asyncio.run(main())
    text = independent(3)
    assert result.answer == "<0>"
    assert result.trace.plan == text
    assert [when[n] < text.index(f":evidence{n + 1}:") for n in range(2)] == [True, True]


def test_a_stream_that_goes_wrong_stops_what_runs():
    spy, closed = Spy(30), []

    async def text():
        try:
            yield ":evidence0: = A[x]\n"
            await asyncio.sleep(0.02)
            yield ":evidence1: = Nope[y]\n"
            await asyncio.sleep(30)
        finally:
            closed.append(True)

    with pytest.raises(PlanError) as e:
        asyncio.run(Executor({"A": spy}).run_stream(text()))
    assert (e.value.line, e.value.column) == (2, 15)
    assert (spy.running, spy.ended, closed) == (0, 0, [True])
    with pytest.raises(PlanError, match="which no step makes"):
        asyncio.run(Executor({"A": Spy()}).run_stream(pieces(":evidence0: = A[:evidence5:]\nAnswer: x")))


def test_streamed_plans_read_as_whole_ones():
    spy = Spy()
    plan = "Plan: a #E1 = A[after #E2]\nPlan: b #E2 = A[first]\nFinal answer: #E1!"
    for size in (1, 3, 1000):
        spy.calls.clear()
        assert asyncio.run(Executor({"A": spy}).run_stream(pieces(plan, size=size))).answer == "<after <first>>!"
        assert spy.calls == ["first", "after <first>"]


def test_a_solver_answers_where_the_plan_does_not():
    prompts = []

    async def solver(prompt):
        prompts.append(prompt)
        return "solved"

    plan = "Plan: look #E1 = A[x]\nPlan: more #E2 = A[#E1]"
    assert run({"A": Spy()}, plan, solver=solver, question="Why?").answer == "solved"
    assert "Evidence #E2: <<x>>" in prompts[0]
    with pytest.raises(RunError, match="solver"):
        run({"A": Spy()}, parse_plan(plan, without_answer="solver"))

    async def broken(prompt):
        raise ToolError("no")

    with pytest.raises(RunError, match="the solver failed: no"):
        run({"A": Spy()}, plan, solver=broken)


def test_resuming_asks_only_what_is_missing():
    failing = Failing(1, ToolError("broken"))
    spy = Spy()
    tools = {"A": spy, "F": failing}
    plan = ":evidence0: = A[x]\n:evidence1: = F[:evidence0:]\n:evidence2: = A[:evidence1:]\nAnswer: :evidence2:"
    with pytest.raises(RunError) as e:
        run(tools, plan)
    kept = Trace.from_json(e.value.trace.to_json())
    result = asyncio.run(Executor(tools).resume(kept))
    assert result.answer == "<at last>"
    assert spy.calls == ["x", "at last"]
    assert [s.origin for s in result.trace.steps] == ["earlier run", "call", "call"]
    changed = run(tools, plan.replace("[x]", "[y]"), resume=result.trace)
    assert [s.origin for s in changed.trace.steps] == ["call", "call", "earlier run"]


def test_two_runs_of_one_executor_do_not_meet():
    spy = Spy(0.02)

    async def main():
        executor = Executor({"A": spy})
        return await asyncio.gather(executor.run(independent(2)), executor.run(independent(3, "y{n}")))

    first, second = asyncio.run(main())
    assert (first.answer, second.answer) == ("<0>", "<y0>")
    assert (len(first.evidence), len(second.evidence)) == (2, 3)


@pytest.mark.parametrize("options", [{"on_failure": "shrug"}, {"on_failure": "replan"}])
def test_options_that_do_not_fit(options):
    with pytest.raises(RunError):
        Executor({}, **options)


def test_functions_that_are_not_async_are_tools_too():
    assert run({"up": str.upper}, ":evidence0: = up[x]").answer == "X"
    assert run([len], ":evidence0: = len[abc]").answer == "3"
