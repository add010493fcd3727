"""The closed world of benchmarks/rewoo.py: documents, questions, a look-up, and how each method is shown what to do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
WORLD = json.loads((DATA / "rewoo_world.json").read_text("utf-8"))
LOOKUP = "Find the document whose title fits the input best, and produce its text."

# Worked examples of other companies, one for each kind of question, shown to both methods.
EXAMPLES: list[dict[str, Any]] = [
    {
        "kind": "birthplace",
        "question": "In which town was the founder of Orrin Mills born?",
        "plan": """\
Plan: Look up the company.
:evidence0: = Lookup[Orrin Mills]
Plan: Find its founder.
:evidence1: = KnowledgeModel[:evidence0: Who founded Orrin Mills?]
Plan: Look up the founder.
:evidence2: = Lookup[:evidence1:]
Plan: Find the town of birth.
:evidence3: = KnowledgeModel[:evidence2: In which town was this person born?]
Answer: :evidence3:""",
        "turns": [
            ("I need the founder.", "Lookup[Orrin Mills]", "It was founded in 1899 by Dora Orrin."),
            ("I need Dora Orrin's town.", "Lookup[Dora Orrin]", "Dora Orrin was born in the town of Felsby."),
            ("The town is Felsby.", "Finish[Felsby]", None),
        ],
    },
    {
        "kind": "river",
        "question": "Which river flows through the town where the founder of Blackwood Saddlery was born?",
        "plan": """\
Plan: Look up the company.
:evidence0: = Lookup[Blackwood Saddlery]
Plan: Find its founder.
:evidence1: = KnowledgeModel[:evidence0: Who founded Blackwood Saddlery?]
Plan: Look up the founder.
:evidence2: = Lookup[:evidence1:]
Plan: Find the town of birth.
:evidence3: = KnowledgeModel[:evidence2: In which town was this person born?]
Plan: Look up the town.
:evidence4: = Lookup[:evidence3:]
Plan: Find the river.
:evidence5: = KnowledgeModel[:evidence4: Which river flows through this town?]
Answer: :evidence5:""",
        "turns": [
            ("I need the founder.", "Lookup[Blackwood Saddlery]", "It was founded in 1920 by Piet Marsh."),
            ("I need Piet Marsh's town.", "Lookup[Piet Marsh]", "Piet Marsh was born in the town of Elmsund."),
            ("I need the river in Elmsund.", "Lookup[Elmsund]", "The river Varn flows through Elmsund."),
            ("The river is Varn.", "Finish[Varn]", None),
        ],
    },
    {
        "kind": "earlier",
        "question": "Which was founded earlier, Amber Tannery or Solway Kilns?",
        "plan": """\
Plan: Look up the first company.
:evidence0: = Lookup[Amber Tannery]
Plan: Look up the second company.
:evidence1: = Lookup[Solway Kilns]
Plan: Compare the years.
:evidence2: = KnowledgeModel[:evidence0: :evidence1: Which of the two companies was founded earlier?]
Answer: :evidence2:""",
        "turns": [
            ("I need the first year.", "Lookup[Amber Tannery]", "It was founded in 1931 by Ada Kyle."),
            ("I need the second year.", "Lookup[Solway Kilns]", "It was founded in 1907 by Jon Reve."),
            ("1907 is before 1931.", "Finish[Solway Kilns]", None),
        ],
    },
]  # fmt: skip


def words(text: str) -> set[str]:
    return {w for w in re.findall(r"\w+", text.lower()) if w not in {"the", "of", "and", "was", "is", "in", "by"}}


def lookup(query: str) -> str:
    """The document whose title shares most words with the query, in proportion; an honest miss if none does."""
    asked = words(query)
    score, text = max(
        ((len(words(d["title"]) & asked) / len(words(d["title"])), d["text"]) for d in WORLD["documents"]),
        key=lambda found: found[0],
    )
    return text if score > 0 else f"There is no document about {query}."


def correct(question: dict[str, str], answer: str) -> bool:
    """Whether the answer names the right thing, and not its rival."""
    said = answer.lower()
    return question["answer"].lower() in said and question.get("not", "\0").lower() not in said


def rewoo_question(question: str) -> str:
    """The question behind the examples, in the place where the planner's prompt has its question."""
    return "\n\nQuestion: ".join([*(f"{e['question']}\n{e['plan']}" for e in EXAMPLES), question])


def template_grammar(kind: str) -> str:
    """A grammar of one example's plan with other names in it: a plan template for that kind of question.

    It is for a model that is too weak to lay out a plan: the layout is given, and the model fills in the names.
    """
    plan = next(example["plan"] for example in EXAMPLES if example["kind"] == kind)
    pieces = re.split(r"(?<=Lookup\[)[A-Z][\w ]+(?=\])|(?<=Who founded )[\w ]+(?=\?)", plan)
    return "start: " + " NAME ".join(json.dumps(piece) for piece in pieces) + "\nNAME: /[A-Z][A-Za-z ]{2,40}/\n"
