"""Reads a plan as it is written: text comes in pieces, steps come out as soon as their line ends."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal

from halfbyte.rewoo import dialects
from halfbyte.rewoo.answer_text import AnswerText
from halfbyte.rewoo.call_text import CALL, OpenCall, surplus_close
from halfbyte.rewoo.plan import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from halfbyte.rewoo.plan import Dialect

    ArgumentChecks = Mapping[str, Callable[[str], str | None] | None]

_INDENT = re.compile(r"[ \t]*(?:>[ \t]*)?(?:(?:[-*+]|[0-9]{1,3}[.)])[ \t]+)?")
_LABEL_BEGINS = (":", "#", "e", "E", "*", "`")
_BESIDE_A_CALL = " \t.;,`*"  # what may stand behind it without being said to be ignored


class PlanReader:
    """Feed it text; `steps`, `problems` and `warnings` grow. It never raises, whatever the text.

    tools: the names that exist, each with a check of its argument or None; None takes any name.
    """

    def __init__(self, tools: ArgumentChecks | None = None) -> None:
        self.steps: dict[int, Step] = {}
        self.dialect: Dialect | None = None
        self.answer = AnswerText()
        self.notes = dialects.Notes()
        self._tools = tools
        self._state: Literal["between", "plan", "call", "answer", "over"] = "between"
        self._call: OpenCall | None = None
        self._plan: list[str] = []
        self._line_number = 0
        self._partial: list[str] = []  # of the line that is not complete yet
        self._fenced = False
        self._new: list[Step] = []
        self.broken: set[int] = set()  # steps that are there, but cannot be read
        self._next_header: int | None = None  # where in the line another header begins

    def feed(self, text: str) -> list[Step]:
        """Read on; returns the steps that are complete now and have nothing wrong with them."""
        *complete, rest = text.split("\n")
        for line in complete:
            self._partial.append(line)
            self._read_line("".join(self._partial))
            self._partial.clear()
        self._partial.append(rest)
        return self._take_new()

    def close(self) -> list[Step]:
        """The text has ended; returns the steps that were still open."""
        self._read_line("".join(self._partial))
        self._partial.clear()
        if self._call:
            self._close_unbalanced(at_end=True)
        self._state = "over"
        return self._take_new()

    def _take_new(self) -> list[Step]:
        new, self._new = self._new, []
        return new

    def _read_line(self, line: str) -> None:
        self._line_number += 1
        line = line.removesuffix("\r")
        if self._line_number == 1:
            line = line.removeprefix("\ufeff")  # a byte order mark
        if self._state == "call":
            self._read_argument_line(line)
        elif self._state != "over" and not self._read_fence(line) and not self._read_headers(line, _indent(line)):
            self._read_continuation(line)

    def _read_fence(self, line: str) -> bool:
        if not line.lstrip().startswith(dialects.FENCES) or (self._state == "answer" and not self._fenced):
            return False
        if self._state == "answer":
            self._state = "over"
        self._fenced = not self._fenced
        return True

    def _read_continuation(self, line: str) -> None:
        if self._state == "plan":
            self._read_plan_text(line, 0)
        elif self._state == "answer":
            if dialects.QUESTION.match(line):
                self.notes.warn((self._line_number, 1), "the plan is over; what follows is ignored")
                self._state = "over"
            else:
                self.answer.lines.append(line)

    # -- what a line may begin with; `start` is where in the line

    def _read_headers(self, line: str, start: int) -> bool:
        found = self._read_header(line, start)
        while self._next_header is not None:
            start, self._next_header = self._next_header, None
            self._read_header(line, start)
        return found

    def _read_header(self, line: str, start: int) -> bool:
        labelled = line[start : start + 1] in _LABEL_BEGINS
        if labelled and (match := dialects.STEP.match(line, start)):
            self._begin_call(line, match)
        elif labelled and (match := dialects.STEP_LIKE.match(line, start)):
            self.notes.problem(
                self._at(match.end()), f"{match['label']!r:.40} is not followed by a call, Tool[argument]"
            )
            self.broken.add(int((match["card"] or match["hash"])[: dialects.LONGEST_NUMBER]))
            self._state = "between"
        elif match := dialects.PLAN.match(line, start):
            self._begin_plan(line, match)
        elif match := dialects.ANSWER.match(line, start):
            self._begin_answer(line, match)
        elif match := dialects.SOLVER.match(line, start):
            self._begin_answer(line, match, solver=True)
        else:
            return False
        return True

    def _begin_plan(self, line: str, match: re.Match[str]) -> None:
        if self._state == "answer":
            self.notes.warn(self._at(match.start()), "a Plan after the Answer is ignored")
        self._state, self._plan = "plan", []
        self._read_plan_text(line, match.end())

    def _read_plan_text(self, line: str, start: int) -> None:
        inside = dialects.STEP_INSIDE.search(line, start)
        self._plan.append(line[start : inside.start() if inside else len(line)].strip())
        self._next_header = inside.start() if inside else None

    def _begin_answer(self, line: str, match: re.Match[str], *, solver: bool = False) -> None:
        if self.answer.begun:
            self.notes.problem(self._at(match.start()), "a second Answer")
            return
        self.answer.begin(self._at(match.end()), line[match.end() :], solver=solver)
        self._state = "answer"

    def _begin_call(self, line: str, match: re.Match[str]) -> None:
        dialect: Dialect = "evidence" if match["card"] else "hash"
        at, digits = self._at(match.start("label")), match["card"] or match["hash"]
        number = int(digits[: dialects.LONGEST_NUMBER])
        label = dialects.label_of(dialect, number)
        self.dialect = self.dialect or dialect
        if self.answer.begun:
            self.notes.problem(at, f"{label} comes after the Answer")
        if dialect != self.dialect:
            self.notes.problem(at, f"{label} in a plan that names its evidence {dialects.label_of(self.dialect, 1)}")
        if len(digits) > dialects.LONGEST_NUMBER:
            self.notes.problem(at, f"{match['label']!r:.40} has too long a number")
        elif match["label"] != label:
            self.notes.warn(at, f"{match['label']!r} is read as {label}")
        plan = "\n".join(self._plan).strip()
        tool_at, argument_at = self._at(match.start("tool")), self._at(match.end())
        self._call = OpenCall(number, label, match["tool"], plan, at, tool_at, argument_at)
        self._state, self._plan = "call", []
        self._read_argument(line, match.end())

    # -- the argument of a call

    def _read_argument_line(self, line: str) -> None:
        assert self._call
        header = dialects.HEADER_IN_ARGUMENT.match(line)
        # "Plan:" and "Answer:" may also be words of the argument, if nothing has closed it yet.
        ends = header and self._call.last_close
        self._call.past_header = self._call.past_header or header is not None
        if ends or dialects.STEP.match(line, _indent(line)):
            self._close_unbalanced(at_end=False)
            self._read_headers(line, _indent(line))
        else:
            self._read_argument(line, 0)
            if self._next_header is not None:
                start, self._next_header = self._next_header, None
                self._read_headers(line, start)

    def _read_argument(self, line: str, start: int) -> None:
        assert self._call
        end = self._call.read(line, start)
        if end is not None:
            self._read_after_call(line, end)

    def _read_after_call(self, line: str, start: int) -> None:
        assert self._call
        if dialects.NOTHING_MORE.match(line, start):
            self._finish_call()
            return
        header = dialects.HEADER_INSIDE.search(line, start)
        rest = line[start : header.start() if header else len(line)]
        surplus = surplus_close(rest)
        if surplus is not None:
            self._call.extend("]" + rest[: surplus - 1])
            rest = rest[surplus:]
            start += surplus
        another = CALL.search(rest)
        if another:
            where = self._at(start + another.start())
            self.notes.problem(
                where, f"{self._call.label} has two calls; a step is one call, so give {another[1]} its own"
            )
            self._give_up()
        else:
            if rest.strip().strip(_BESIDE_A_CALL):
                self.notes.warn(self._at(start), f"{rest.strip()!r:.60} after the call is ignored")
            self._finish_call()
        self._next_header = header.start() if header else None

    def _close_unbalanced(self, *, at_end: bool) -> None:
        call = self._call
        assert call
        whole = call.argument
        if call.last_close is None or (at_end and not whole.rstrip(" \t\n`").endswith("]")):
            opened = (call.argument_at[0], call.argument_at[1] - 1)
            why = "the plan ends within its argument" if at_end else "the next line of the plan begins before its ]"
            self.notes.problem(opened, f"the [ of {call.label} is never closed: {why}")
            self._give_up()
            return
        ignored = call.cut_at_last_close().strip()
        self.notes.warn(call.argument_at, f"brackets do not balance; the argument of {call.label} ends at the last ]")
        if ignored.strip(" `"):
            self.notes.warn(call.argument_at, f"{ignored!r:.60} after the call is ignored")
        self._finish_call()

    def _give_up(self) -> None:
        assert self._call
        self.broken.add(self._call.id)
        self._call, self._state = None, "between"

    def _finish_call(self) -> None:
        call, self._call, self._state = self._call, None, "between"
        assert call
        assert self.dialect
        before = len(self.notes.problems)
        argument, references = dialects.find_references(call.argument, call.argument_at, self.dialect, self.notes)
        depends_on = tuple(dict.fromkeys(reference.id for reference in references))
        step = Step(
            call.id, call.tool, argument, depends_on, call.plan, call.label, *call.at,
            references, call.tool_at, call.argument_at,
        )  # fmt: skip
        self._check(step)
        self.steps.setdefault(step.id, step)
        if len(self.notes.problems) == before and not self.answer.begun:
            self._new.append(step)

    # -- what can be said of a step by itself

    def _check(self, step: Step) -> None:
        at = (step.line, step.column)
        if step.id in self.steps:
            self.notes.problem(at, f"{step.label} is there twice; the first is on line {self.steps[step.id].line}")
        if step.id in step.depends_on:
            self.notes.problem(at, f"{step.label} refers to itself")
        nested = self._nested_call(step.argument)
        if nested:
            self.notes.problem(step.argument_at, f"{step.label} calls {nested} within its argument; give it a step")
        if self._tools is None:
            return
        if step.tool not in self._tools:
            self.notes.problem(step.tool_at, self._unknown(step.tool))
        elif not step.references and not nested:
            check = self._tools[step.tool]
            wrong = check(step.argument) if check else None
            if wrong:
                self.notes.problem(step.argument_at, f"the argument of {step.label} {wrong}")

    def _nested_call(self, argument: str) -> str | None:
        known = next((m[1] for m in CALL.finditer(argument) if m[1] in self._tools), None) if self._tools else None
        whole = CALL.match(argument.strip())  # A[B[x]] is surely one too, B named as tools are; a[i] is text
        is_call = whole and whole[1][0].isupper() and argument.rstrip().endswith("]")
        return known or (whole[1] if whole and is_call else None)

    def _unknown(self, name: str) -> str:
        assert self._tools is not None
        close = get_close_matches(name, list(self._tools)[:50], 1) if len(name) < 60 else []
        hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(self._tools) or 'none'}"
        return f"there is no tool {name!r:.60}{hint}"

    def _at(self, index: int) -> tuple[int, int]:
        return self._line_number, index + 1


def _indent(line: str) -> int:
    if line[:1].isalpha() or line.startswith((":", "#")):
        return 0
    match = _INDENT.match(line)
    return match.end() if match else 0
