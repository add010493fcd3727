"""Worked examples of benchmarks/rewoo.py: the same questions and steps, written as a plan and turn by turn.

They are of companies that the closed world does not have. All methods are shown the same ones: those whose questions
share most words with the question.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SHOWN = 3  # examples before a question: those that share most words with it, the nearest last


@dataclass(frozen=True)
class Step:
    why: str
    tool: str
    argument: str  # {n}: the evidence of step n
    evidence: str
    given: tuple[int, ...] = ()  # the steps that a KnowledgeModel reads


@dataclass(frozen=True)
class Example:
    question: str
    steps: tuple[Step, ...]

    def as_plan(self) -> str:
        labels = [f":evidence{n}:" for n in range(len(self.steps))]
        lines = []
        for label, step in zip(labels, self.steps, strict=True):
            given = f", given {' '.join(labels[n] for n in step.given)}?" if step.given else ""
            lines += [f"Plan: {step.why}.", f"{label} = {step.tool}[{step.argument.format(*labels)}{given}]"]
        return "\n".join([*lines, f"Answer: {labels[-1]}"])

    def as_turns(self, tools: tuple[str, ...]) -> str:
        """ReAct with some of the tools: without a KnowledgeModel it reads for itself."""
        found = [step.evidence for step in self.steps]
        lines = []
        for step in self.steps:
            if step.tool in tools:
                argument = step.argument.format(*found) + ("?" if step.given else "")
                lines += [f"Thought: {step.why.format(*found)}.", f"Action: {step.tool}[{argument}]"]
                lines += [f"Observation: {step.evidence}"]
        answer = self.steps[-1].evidence
        return "\n".join([*lines, f"Thought: The answer is {answer}.", f"Action: Finish[{answer}]"])


def birthplace(company: str, founder: str, town: str, year: str) -> Example:
    question = f"In which town was the founder of {company} born?"
    return Example(question, _to_town(company, founder, town, year))


def river(company: str, founder: str, town: str, year: str, name: str) -> Example:
    return Example(
        f"Which river flows through the town where the founder of {company} was born?",
        (
            *_to_town(company, founder, town, year),
            Step("Find the town", "Lookup", "{3}", f"The river {name} flows through {town}."),
            Step("Read which river it is", "KnowledgeModel", "Which river flows through {3}", name, (4,)),
        ),
    )


def earlier(first: str, second: str, years: tuple[str, str]) -> Example:
    winner = first if int(years[0]) < int(years[1]) else second
    asked = f"Which was founded earlier, {first} or {second}"
    return Example(
        f"{asked}?",
        (
            Step(f"Find {first}", "Lookup", first, _company(first, years[0], "a clerk")),
            Step(f"Find {second}", "Lookup", second, _company(second, years[1], "a teacher")),
            Step("Compare the years", "KnowledgeModel", asked, winner, (0, 1)),
        ),
    )


def apart(first: str, second: str, years: tuple[str, str]) -> Example:
    return Example(
        f"How many years after {first} was {second} founded?",
        (
            Step(f"Find {first}", "Lookup", first, _company(first, years[0], "a clerk")),
            Step("Read in which year", "KnowledgeModel", f"In which year was {first} founded", years[0], (0,)),
            Step(f"Find {second}", "Lookup", second, _company(second, years[1], "a teacher")),
            Step("Read in which year", "KnowledgeModel", f"In which year was {second} founded", years[1], (2,)),
            Step("Subtract", "Calculator", "{3} - {1}", str(int(years[1]) - int(years[0]))),
        ),
    )


def _to_town(company: str, founder: str, town: str, year: str) -> tuple[Step, ...]:
    return (
        Step(f"Find {company}", "Lookup", company, _company(company, year, founder)),
        Step("Read who founded it", "KnowledgeModel", f"Who founded {company}", founder, (0,)),
        Step("Find the founder", "Lookup", "{1}", f"{founder} was born in the town of {town}."),
        Step("Read in which town", "KnowledgeModel", "In which town was {1} born", town, (2,)),
    )


def _company(name: str, year: str, founder: str) -> str:
    return f"{name} was founded in {year} by {founder}."


EXAMPLES = (
    birthplace("Orrin Mills", "Dora Orrin", "Felsby", "1899"),
    apart("Hatherley Prams", "Oriel Bicycles", ("1894", "1921")),
    river("Blackwood Saddlery", "Piet Marsh", "Elmsund", "1920", "Varn"),
    earlier("Amber Tannery", "Solway Kilns", ("1931", "1907")),
    river("Silver Birch Press", "Nell Amory", "Cold Norton", "1880", "Tarrant"),
    birthplace("Wexham Pianos", "Josef Lind", "Grauberg", "1872"),
    apart("Mossgate Anchors", "Tidewater Sails", ("1858", "1890")),
    earlier("Dale and Daughters", "Northgate Lamps", ("1903", "1948")),
)


def examples_for(question: str) -> list[Example]:
    asked = set(re.findall(r"\w+", question.lower()))

    def likeness(example: Example) -> float:
        words = set(re.findall(r"\w+", example.question.lower()))
        return len(asked & words) / len(asked | words)

    return sorted(EXAMPLES, key=likeness)[-SHOWN:]
