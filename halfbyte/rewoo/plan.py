"""What a plan is: steps, each a call of a tool, and an answer that refers to their evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Dialect = Literal["evidence", "hash"]  # :evidence0: from 0, as the model card writes; #E1 from 1, as the paper does


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong, or only odd, at a place in the plan; line and column count from 1."""

    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.message}"


@dataclass(frozen=True, slots=True)
class Reference:
    """A mention of a step's evidence: `text[start:end]` of the argument or answer that it stands in."""

    id: int
    start: int
    end: int
    line: int = 1  # where it stands in the plan
    column: int = 1


@dataclass(frozen=True, slots=True)
class Step:
    """One call: `label = tool[argument]`, with the text of the Plan before it."""

    id: int  # the number in the label
    tool: str
    argument: str  # as written between the brackets, its references in their proper form
    depends_on: tuple[int, ...]  # ids that the argument refers to, each once, in the order of their first mention
    plan: str  # what the Plan line says; empty if there is none
    label: str  # :evidence0: or #E1
    line: int  # of the label
    column: int
    references: tuple[Reference, ...] = ()
    tool_at: tuple[int, int] = (0, 0)  # line and column of the tool's name
    argument_at: tuple[int, int] = (0, 0)  # and of the argument's first character


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan that can be run: every reference is to a step of it, and there is no cycle."""

    steps: tuple[Step, ...]
    answer: str | None  # a text with references; None if a solver is to make it of all the evidence
    text: str
    dialect: Dialect = "evidence"
    answer_references: tuple[Reference, ...] = ()
    instruction: str = ""  # for the solver, if the plan has a Solver line that says something
    warnings: tuple[Problem, ...] = ()  # what was put right while reading

    def step(self, step_id: int) -> Step:
        """The step of that number; KeyError if there is none."""
        for step in self.steps:
            if step.id == step_id:
                return step
        raise KeyError(step_id)

    @property
    def sinks(self) -> tuple[Step, ...]:
        """The steps whose evidence no other step uses."""
        used = {step_id for step in self.steps for step_id in step.depends_on}
        return tuple(step for step in self.steps if step.id not in used)


def interpolate(text: str, references: tuple[Reference, ...], evidence: Mapping[int, str]) -> str:
    """The text with each reference replaced, in one pass: what evidence says is never read as a reference."""
    pieces, end = [], 0
    for reference in references:
        pieces += [text[end : reference.start], evidence[reference.id]]
        end = reference.end
    return "".join([*pieces, text[end:]])


class Places:
    """Line and column of offsets in a text that begins at `at`; offsets must be asked for in ascending order."""

    def __init__(self, text: str, at: tuple[int, int]) -> None:
        self._text, self._offset = text, 0
        self._line, self._column = at

    def at(self, offset: int) -> tuple[int, int]:
        """Where `text[offset]` stands."""
        lines = self._text.count("\n", self._offset, offset)
        if lines:
            self._column = offset - self._text.rindex("\n", self._offset, offset)
        else:
            self._column += offset - self._offset
        self._line, self._offset = self._line + lines, offset
        return self._line, self._column
