"""The closed world of benchmarks/rewoo.py: documents, questions, a look-up, and when an answer is right."""

from __future__ import annotations

import json
import re
from pathlib import Path

DATA = Path(__file__).parent / "data"
WORLD = json.loads((DATA / "rewoo_world.json").read_text("utf-8"))
LOOKUP = "Find the document whose title fits the input best, and produce its text."


def questions(split: str, count: int | None = None) -> list[dict[str, str]]:
    """The questions of a split, "dev" or "test"; if a count is given, so many of all kinds in turn."""
    chosen = [question for question in WORLD["questions"] if question["split"] == split]
    kinds = [[q for q in chosen if q["kind"] == kind] for kind in dict.fromkeys(q["kind"] for q in chosen)]
    return [question for group in zip(*kinds, strict=True) for question in group][:count]


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
    """Whether the answer names the right thing, and no other person, company, town, river or number of this world."""

    def named(name: str) -> bool:
        return re.search(rf"\b{re.escape(name)}\b", answer, re.IGNORECASE) is not None

    right = question["answer"]
    others = [name for name in NAMES if name.lower() not in right.lower() and right.lower() not in name.lower()]
    numbers = set(re.findall(r"\d+", answer)) - {right}
    return named(right) and not any(map(named, others)) and not numbers


NAMES = {d["title"] for d in WORLD["documents"]} | {q["answer"] for q in WORLD["questions"] if q["kind"] != "years"}
