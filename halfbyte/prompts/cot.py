"""Chain of thought: several solutions, ranked, and one answer; and a vote over several such samples."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from halfbyte.errors import PromptError
from halfbyte.prompts.position import Line, Span, Text

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

_SOLUTION = re.compile(r"solution\s{0,8}#?(\d{1,9})\s{0,8}[:.]", re.IGNORECASE)
_RANK = re.compile(r"(\d{1,9})[.)]\s{0,8}\**solution\s{0,8}#?(\d{1,9})\s{0,8}(?:\**[:.\-–]\**|$)", re.IGNORECASE)
_FINAL = re.compile(r"final\s{1,8}answer\s{0,8}\**:", re.IGNORECASE)
_BEST = re.compile(r"best\s{1,8}and\s{1,8}final\s{1,8}answer\s{0,8}\**:", re.IGNORECASE)
_RANKING = re.compile(r"ranking\s{1,8}of\s{1,8}(?:the\s{1,8})?solutions\b[^:]*:", re.IGNORECASE)
_MARKUP = "*_#> \t"

Kind = Literal["ranking", "solutions", "answer", "disagreement"]


@dataclass(frozen=True, slots=True)
class Solution:
    """One way to the answer. `answer` is None where it gives no `Final answer:`."""

    number: int
    text: str
    answer: str | None
    span: Span


@dataclass(frozen=True, slots=True)
class Rank:
    """A place in the ranking."""

    place: int
    solution: int
    reason: str
    span: Span


@dataclass(frozen=True, slots=True)
class CotProblem:
    """ranking: not a permutation of the solutions, or misnumbered. solutions: fewer than two, or a number twice.
    answer: a solution without one. disagreement: the best answer is not that of the solution ranked first."""

    kind: Kind
    message: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Reasoning:
    """An answer in this form. `problems` is empty if it keeps to the form and agrees with itself."""

    solutions: tuple[Solution, ...]
    ranking: tuple[Rank, ...]
    best: str
    best_span: Span
    problems: tuple[CotProblem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class Vote:
    """The answer that most samples give (self-consistency, arXiv:2203.11171); of equals, the one that came first."""

    answer: str
    votes: int
    readable: int
    unreadable: int
    tie: bool
    tally: dict[str, int]  # votes by answer, in the words of the first sample that gave it


def normal_answer(answer: str) -> str:
    """What makes two answers the same: words without case, spacing, markup and a final full stop."""
    return " ".join(answer.split()).strip(_MARKUP).rstrip(".!").casefold()


@dataclass(frozen=True, slots=True)
class ChainOfThought:
    """Asks for several solutions and reads them.

    criterion: what the ranking goes by. key: answers with the same key are the same answer.
    """

    criterion: str = "mathematical logic"
    key: Callable[[str], Hashable] = normal_answer

    def render(self, problem: str) -> str:
        """The card's prompt."""
        if not problem.strip():
            raise PromptError("a chain of thought needs a problem")
        return (
            f"{problem.rstrip()} Offer several potential answers, rank them according to {self.criterion}, "
            "and pick the most feasible one."
        )

    def parse(self, answer: str) -> Reasoning:
        """Read an answer; what it gets wrong is in `problems`.

        Raises PromptError where it cannot be read at all: no solution, or no best answer.
        """
        return _Reader(Text(answer), self.key).read()

    def vote(self, answers: Iterable[str]) -> Vote:
        """The best answer of most samples. Raises PromptError if none can be read."""
        counts: Counter[Hashable] = Counter()
        words: dict[Hashable, str] = {}
        unreadable = 0
        for answer in answers:
            try:
                best = self.parse(answer).best
            except PromptError:
                unreadable += 1
                continue
            counts[self.key(best)] += 1
            words.setdefault(self.key(best), best)
        if not counts:
            raise PromptError(f"none of {unreadable} answers can be read")
        top, votes = counts.most_common(1)[0]
        tie = list(counts.values()).count(votes) > 1
        tally = {words[key]: count for key, count in counts.items()}
        return Vote(words[top], votes, counts.total(), unreadable, tie, tally)


class _Reader:
    """Goes through the lines once; a line's beginning says what it opens."""

    def __init__(self, text: Text, key: Callable[[str], Hashable]) -> None:
        self.text = text
        self.key = key
        self.solutions: list[Solution] = []
        self.ranks: list[tuple[int, int, list[str], Span]] = []  # as Rank, the reason in lines
        self.problems: list[CotProblem] = []
        self.best: list[str] | None = None
        self.best_start = 0
        self.ranked_at: int | None = None
        self.number: int | None = None  # of the solution that is being read
        self.start = self.end = 0
        self.thought: list[str] = []
        self.answer: list[str] | None = None

    def read(self) -> Reasoning:
        for line in self.text.lines():
            self._line(line)
        self._close()
        if not self.solutions:
            raise self.text.error("there is no `Solution 1:`", 0)
        if self.best is None or not (best := "\n".join(self.best).strip()):
            raise self.text.error("there is no `Best and final answer:`", len(self.text.text))
        span = self.text.span(self.best_start, len(self.text.text))
        self.ranking = [Rank(place, number, "\n".join(why).strip(), at) for place, number, why, at in self.ranks]
        self._check(best, span)
        problems = tuple(sorted(self.problems, key=lambda p: (p.line, p.column)))
        return Reasoning(tuple(self.solutions), tuple(self.ranking), best, span, problems)

    def _line(self, line: Line) -> None:
        body = line.text.lstrip(_MARKUP)
        if self.best is not None:
            self.best.append(line.text)
        elif found := _BEST.match(body):
            self._close()
            self.best, self.best_start = [_after(body, found)], line.start
        elif _RANKING.match(body):
            self._close()
            self.ranked_at = line.start
        elif self.ranked_at is not None:
            self._rank(line, body)
        elif found := _SOLUTION.match(body):
            self._close()
            self.number, self.start = int(found[1]), line.start
            self.thought = [_after(body, found)]
        elif self.number is not None:
            self._thought(line, body)
        self.end = line.start + len(line.text)

    def _thought(self, line: Line, body: str) -> None:
        if found := _FINAL.match(body):
            if self.answer is not None:
                self._problem("answer", f"solution {self.number} has a second final answer", line.start)
            self.answer = [_after(body, found)]
        else:
            (self.thought if self.answer is None else self.answer).append(line.text)

    def _rank(self, line: Line, body: str) -> None:
        span = self.text.span(line.start, line.start + len(line.text))
        if found := _RANK.match(body):
            self.ranks.append((int(found[1]), int(found[2]), [_after(body, found)], span))
        elif self.ranks and body:
            self.ranks[-1][2].append(body)

    def _close(self) -> None:
        if self.number is None:
            return
        answer = None if self.answer is None else "\n".join(self.answer).strip().strip("*").strip()
        span = self.text.span(self.start, self.end)
        self.solutions.append(Solution(self.number, "\n".join(self.thought).strip(), answer or None, span))
        self.number, self.answer = None, None

    def _check(self, best: str, span: Span) -> None:
        numbers = [solution.number for solution in self.solutions]
        if len(numbers) < 2:
            self._problem("solutions", "there is one solution; several were asked for", self.solutions[0].span.start)
        seen: set[int] = set()
        for solution in self.solutions:
            if solution.number in seen:
                self._problem("solutions", f"solution {solution.number} is there twice", solution.span.start)
            seen.add(solution.number)
            if solution.answer is None:
                self._problem("answer", f"solution {solution.number} has no final answer", solution.span.start)
        self._check_ranking(seen, span)
        self._check_best(best, span)

    def _check_ranking(self, numbers: set[int], best: Span) -> None:
        at = best.start if self.ranked_at is None else self.ranked_at
        ranked: set[int] = set()
        for place, rank in enumerate(self.ranking, 1):
            if rank.place != place:
                self._problem("ranking", f"place {rank.place} where {place} is due", rank.span.start)
            if rank.solution not in numbers:
                self._problem("ranking", f"solution {rank.solution} is ranked and not given", rank.span.start)
            elif rank.solution in ranked:
                self._problem("ranking", f"solution {rank.solution} is ranked twice", rank.span.start)
            ranked.add(rank.solution)
        for number in sorted(numbers - ranked):
            self._problem("ranking", f"solution {number} is not ranked", at)

    def _check_best(self, best: str, span: Span) -> None:
        top = self.ranking[0].solution if self.ranking else None
        answer = next((s.answer for s in self.solutions if s.number == top), None)
        if answer is not None and self.key(answer) != self.key(best):
            self._problem(
                "disagreement", f"the best answer is not that of solution {top}, which is ranked first", span.start
            )

    def _problem(self, kind: Kind, message: str, offset: int) -> None:
        place = self.text.span(offset, offset)
        self.problems.append(CotProblem(kind, message, place.line, place.column))


def _after(body: str, found: re.Match[str]) -> str:
    return body[found.end() :].strip(_MARKUP)
