"""What must hold of a plan before any of it runs, wherever it is from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfbyte.errors import PlanError
from halfbyte.rewoo.dialects import label_of
from halfbyte.rewoo.graph import graph_problems, undefined
from halfbyte.rewoo.plan import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from halfbyte.rewoo.plan import Plan, Step
    from halfbyte.rewoo.tool import Tool


def check_plan(plan: Plan, tools: Mapping[str, Tool]) -> None:
    """Raise PlanError, with all that is wrong, unless these tools can run the plan."""
    steps = {step.id: step for step in plan.steps}
    problems = graph_problems(steps) + undefined(
        plan.answer_references, steps.keys(), label_of(plan.dialect, 0), "the Answer"
    )
    if len(steps) < len(plan.steps):
        problems.append(Problem(1, 1, "two steps of the plan have the same number"))
    for step in plan.steps:
        problems += _step_problems(step, tools)
    if problems:
        raise PlanError(problems)


def _step_problems(step: Step, tools: Mapping[str, Tool]) -> Iterator[Problem]:
    if step.id in step.depends_on:
        yield Problem(step.line, step.column, f"{step.label} refers to itself")
    tool = tools.get(step.tool)
    if tool is None:
        there = ", ".join(sorted(tools)) or "none"
        yield Problem(*step.tool_at, f"there is no tool {step.tool!r:.60}; there are {there}")
    elif not step.references and (wrong := tool.problem_with(step.argument)):
        yield Problem(*step.argument_at, f"the argument of {step.label} {wrong}")
