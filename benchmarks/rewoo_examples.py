"""Worked examples of benchmarks/rewoo.py: the same questions, solved as a plan and turn by turn.

They are of companies that the closed world does not have. Both methods are shown all of them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    kind: str
    question: str
    plan: str
    turns: tuple[tuple[str, str, str | None], ...]  # thought, action, observation


def birthplace(company: str, founder: str, town: str, year: str) -> Example:
    return Example(
        "birthplace",
        f"In which town was the founder of {company} born?",
        f"{_to_town(company, 'the answer: ')}Answer: :evidence3:",
        (
            *_turns(company, founder, town, year),
            (f"The town is {town}.", f"Finish[{town}]", None),
        ),
    )


def river(company: str, founder: str, town: str, year: str, name: str) -> Example:
    return Example(
        "river",
        f"Which river flows through the town where the founder of {company} was born?",
        f"{_to_town(company)}"
        "Plan: Find the document about the town.\n"
        ":evidence4: = Lookup[:evidence3:]\n"
        "Plan: Read the answer: which river flows there.\n"
        ":evidence5: = KnowledgeModel[Which river flows through :evidence3:, given :evidence4:?]\n"
        "Answer: :evidence5:",
        (
            *_turns(company, founder, town, year),
            (f"I need the river in {town}.", f"Lookup[{town}]", f"The river {name} flows through {town}."),
            (f"The river is {name}.", f"Finish[{name}]", None),
        ),
    )


def earlier(first: str, second: str, years: tuple[str, str]) -> Example:
    a, b = years
    winner = first if int(a) < int(b) else second
    return Example(
        "earlier",
        f"Which was founded earlier, {first} or {second}?",
        f"Plan: Find the document about {first}.\n"
        f":evidence0: = Lookup[{first}]\n"
        f"Plan: Find the document about {second}.\n"
        f":evidence1: = Lookup[{second}]\n"
        "Plan: Read the answer: which is earlier.\n"
        f":evidence2: = KnowledgeModel[Which was founded earlier, {first} or {second}, "
        "given :evidence0: :evidence1:?]\n"
        "Answer: :evidence2:",
        (
            (f"I need the year of {first}.", f"Lookup[{first}]", f"{first} was founded in {a} by a clerk."),
            (f"I need the year of {second}.", f"Lookup[{second}]", f"{second} was founded in {b} by a teacher."),
            (f"{min(years)} is before {max(years)}.", f"Finish[{winner}]", None),
        ),
    )


def _to_town(company: str, last: str = "") -> str:
    return (
        f"Plan: Find the document about {company}.\n"
        f":evidence0: = Lookup[{company}]\n"
        "Plan: Read who founded it.\n"
        f":evidence1: = KnowledgeModel[Who founded {company}, given :evidence0:?]\n"
        "Plan: Find the document about the founder.\n"
        ":evidence2: = Lookup[:evidence1:]\n"
        f"Plan: Read {last}where the founder was born.\n"
        ":evidence3: = KnowledgeModel[In which town was :evidence1: born, given :evidence2:?]\n"
    )


def _turns(company: str, founder: str, town: str, year: str) -> tuple[tuple[str, str, str | None], ...]:
    return (
        (f"I need the founder of {company}.", f"Lookup[{company}]", f"It was founded in {year} by {founder}."),
        (f"I need the town of {founder}.", f"Lookup[{founder}]", f"{founder} was born in the town of {town}."),
    )


EXAMPLES = (
    birthplace("Orrin Mills", "Dora Orrin", "Felsby", "1899"),
    river("Blackwood Saddlery", "Piet Marsh", "Elmsund", "1920", "Varn"),
    earlier("Amber Tannery", "Solway Kilns", ("1931", "1907")),
    river("Silver Birch Press", "Nell Amory", "Cold Norton", "1880", "Tarrant"),
    birthplace("Wexham Pianos", "Josef Lind", "Grauberg", "1872"),
    earlier("Dale and Daughters", "Northgate Lamps", ("1903", "1948")),
)


def examples_before(question: str) -> str:
    """The question behind the examples, in the place where the planner's prompt has its question."""
    return "\n\nQuestion: ".join([*(f"{example.question}\n{example.plan}" for example in EXAMPLES), question])


def library_grammar() -> str:
    """A grammar of the three examples' plans with other names in them: a library of plans.

    It is for a model too weak to lay out a plan: it chooses one of the layouts, as far as they differ, and fills in the
    names. It is not told which kind the question is of.
    """
    plans = {example.kind: _layout(example) for example in EXAMPLES}
    return "\n".join(["start: " + " | ".join(plans), *(f"{kind}: {plan}" for kind, plan in plans.items()), _NAME])


_NAME = "NAME: /[A-Z][A-Za-z]{1,15}( [A-Za-z]{1,15}){0,4}/\n"


def _layout(example: Example) -> str:
    named = r"(?<=about )[A-Z][\w ]+(?=\.)|(?<=Lookup\[)[A-Z][\w ]+(?=\])|(?<=founded )[A-Z][\w ]+(?=,)"
    named += r"|(?<=earlier, )[A-Z][\w ]+(?= or )|(?<= or )[A-Z][\w ]+(?=,)"
    return " NAME ".join(json.dumps(piece) for piece in re.split(named, example.plan))
