"""Plans as they come in: in pieces, damaged, or as no plan at all."""

from __future__ import annotations

import random
import time

import pytest
from card_plan import PLAN, TOOLS
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.errors import PlanError
from halfbyte.rewoo import PlanReader, parse_plan
from halfbyte.rewoo.parser import argument_checks

FRAGMENTS = (
    ":evidence0:", ":evidence1:", ":evidence10:", ":Evidence2", "#E1", "#E2", " = ", "=", "A", "DuckDuckGo", "[", "]", "\n",
    "\r\n", "Plan: ", "Answer: ", "Final answer: ", "Solver: ", "Question: ", "```", "x", " ", "\t", ":", "evidence", "9" * 30,
    "é", "\u2028", "\x00", "\ud800",
)  # fmt: skip


def reading(text, tools=("A", "DuckDuckGo")):
    """None if it is refused, which must be with a place; else the plan."""
    try:
        return parse_plan(text, tools)
    except PlanError as e:
        lines = text.split("\n")
        assert e.problems
        for problem in e.problems:
            assert 1 <= problem.line <= len(lines)
            assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1
        return None


def in_pieces(text, cuts):
    reader = PlanReader(argument_checks(("A", "DuckDuckGo")))
    steps, start = [], 0
    for cut in [*sorted(cuts), len(text)]:
        steps += reader.feed(text[start:cut])
        start = cut
    return steps + reader.close(), reader


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=60).map("".join))
def test_any_fragments_are_a_plan_or_a_located_error(text):
    reading(text)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_a_plan_or_a_located_error(text):
    reading(text)
    reading(f":evidence0: = A[{text}")
    reading(f":evidence0: = A[{text}]\nAnswer: {text}")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join), st.lists(st.integers(0, 200), max_size=20))
def test_pieces_read_as_the_whole_does(text, cuts):
    whole, reader = in_pieces(text, [])
    pieces, other = in_pieces(text, [c for c in cuts if c < len(text)])
    assert pieces == whole
    assert other.notes.problems == reader.notes.problems
    assert other.answer == reader.answer


def test_a_step_comes_out_with_its_line():
    reader = PlanReader(argument_checks(TOOLS))
    seen = []
    for at, char in enumerate(PLAN):
        seen += [(step.id, PLAN[: at + 1].count("\n")) for step in reader.feed(char)]
    assert seen == [(n, 2 * n + 2) for n in range(6)]


def test_steps_with_problems_do_not_come_out():
    reader = PlanReader(argument_checks({"A"}))
    text = (
        ":evidence0: = A[x]\n:evidence1: = B[x]\n:evidence0: = A[y]\n:evidence2: = A[:evidence2:]\n:evidence3: = A[z]\n"
    )
    assert [step.id for step in reader.feed(text)] == [0, 3]
    assert len(reader.notes.problems) == 3


def mutated(rng, text):
    for _ in range(rng.randint(1, 8)):
        kind, at = rng.randrange(5), rng.randrange(len(text) + 1)
        if kind == 0:
            text = text[:at] + text[at + rng.randint(1, 12) :]
        elif kind == 1:
            text = text[:at] + rng.choice(FRAGMENTS) + text[at:]
        elif kind == 2:
            text = text[:at]
        elif kind == 3:
            lines = text.split("\n")
            rng.shuffle(lines)
            text = "\n".join(lines)
        else:
            end = rng.randrange(len(text) + 1)
            text = text[:end] + text[at : at + 40] + text[end:]
    return text


def test_ten_thousand_mutated_plans():
    rng = random.Random(7)
    read = sum(reading(mutated(rng, PLAN), TOOLS) is not None for _ in range(10_000))
    assert 100 < read < 9_900


def test_a_thousand_steps_in_fifty_milliseconds():
    text = "Plan: a\n:evidence0: = A[x]\n" + "".join(
        f"Plan: find {n}\n:evidence{n}: = A[what of {n}, given :evidence{n - 1}:?]\n" for n in range(1, 1000)
    )
    best = min(_seconds(text + "Answer: :evidence999:") for _ in range(10))
    assert best < 0.05


def _seconds(text):
    start = time.process_time()
    assert len(parse_plan(text, {"A"}).steps) == 1000
    return time.process_time() - start


@pytest.mark.parametrize("steps", [3000])
def test_long_chains_and_cycles_need_no_recursion(steps):
    chain = "".join(f"#E{n} = A[#E{n + 1}]\n" for n in range(1, steps)) + f"#E{steps} = A["
    assert len(parse_plan(chain + "x]", {"A"}).steps) == steps
    with pytest.raises(PlanError, match="cycle"):
        parse_plan(chain + "#E1]", {"A"})
