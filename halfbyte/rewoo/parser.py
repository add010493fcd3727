"""Text to plan, with everything that is wrong with it in one error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from halfbyte.errors import PlanError
from halfbyte.rewoo.dialects import find_references, label_of
from halfbyte.rewoo.graph import graph_problems, undefined
from halfbyte.rewoo.plan import Plan, Problem, Reference
from halfbyte.rewoo.reader import PlanReader

if TYPE_CHECKING:
    from collections.abc import Iterable

    from halfbyte.rewoo.plan import Step
    from halfbyte.rewoo.reader import ArgumentChecks
    from halfbyte.rewoo.tool import Tool

WithoutAnswer = Literal["last", "error", "solver"]


def parse_plan(text: str, tools: Iterable[str | Tool] | None = None, *, without_answer: WithoutAnswer = "last") -> Plan:
    """Read a plan in the model card's form (`:evidence0:`) or in ReWOO's (`#E1`).

    tools: names or tools that a step may call; tools also check their arguments' types. None: any name.
    without_answer: what stands in for a missing Answer: the "last" step whose evidence no other uses, an "error", or a
    "solver", which is to make the answer of all the evidence (`plan.answer` is then None).

    Raises PlanError with all problems of the plan: `line` and `column` (from 1) are those of the first. Takes time in
    proportion to the text.
    """
    if not isinstance(text, str):
        raise PlanError([Problem(1, 1, f"a plan is a text, not of type {type(text).__name__}")])
    reader = PlanReader(argument_checks(tools))
    reader.feed(text)
    reader.close()
    return finish_plan(reader, text, without_answer)


def argument_checks(tools: Iterable[str | Tool] | None) -> ArgumentChecks | None:
    """Names with the check of their argument, from names, tools, or a mapping of either kind."""
    if tools is None:
        return None
    if isinstance(tools, str):
        tools = [tools]
    named = {getattr(t, "name", t): t for t in tools} if not isinstance(tools, Mapping) else tools
    return {str(name): getattr(named[name], "problem_with", None) for name in sorted(named, key=str)}


def finish_plan(reader: PlanReader, text: str, without_answer: WithoutAnswer = "last") -> Plan:
    """The plan that a reader has read, which must be closed. Raises PlanError."""
    notes, steps, answer = reader.notes, reader.steps, reader.answer
    dialect = reader.dialect or "evidence"
    template: str | None = answer.text if answer.begun and not answer.solver and answer.text else None
    references: tuple[Reference, ...] = ()
    if template is not None:
        at = answer.at
        if template.startswith("[") and template.endswith("]"):  # as the prompt's description of the format shows it
            template, at = template[1:-1], (at[0], at[1] + 1)
            notes.warn(answer.at, "the brackets round the Answer are left out")
        template, references = find_references(template, at, dialect, notes)
        known = steps.keys() | reader.broken
        notes.problems += undefined(references, known, label_of(dialect, 0), "the Answer")
        if not references and steps:
            notes.warn(answer.at, "the Answer refers to no evidence: it says the same whatever is found")
    notes.problems += graph_problems(steps, reader.broken)
    if not steps and not notes.problems:
        notes.problem((1, 1), "this is no plan: there is no line of the form :evidence0: = Tool[argument]")
    if template is None and not answer.solver and without_answer == "error":
        notes.problem((text.count("\n") + 1, 1), "the plan has no Answer")
    if notes.problems:
        raise PlanError(notes.problems)
    plan = Plan(tuple(steps.values()), template, text, dialect, references, warnings=tuple(notes.warnings))
    if template is not None:
        return plan
    if answer.solver or without_answer == "solver":
        return _with_solver(plan, answer.text)
    return _answered_by(plan, plan.sinks[-1], text)


def _with_solver(plan: Plan, instruction: str) -> Plan:
    instruction = instruction.strip().removeprefix("[").removesuffix("]")
    return Plan(plan.steps, None, plan.text, plan.dialect, instruction=instruction, warnings=plan.warnings)


def _answered_by(plan: Plan, step: Step, text: str) -> Plan:
    note = Problem(text.count("\n") + 1, 1, f"there is no Answer; {step.label} is taken")
    notes = (*plan.warnings, note)
    whole = (Reference(step.id, 0, len(step.label)),)
    return Plan(plan.steps, step.label, plan.text, plan.dialect, whole, warnings=notes)
