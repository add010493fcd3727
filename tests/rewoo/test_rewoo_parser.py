"""Plans as models write them: every case has one defined reading, or one located error."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from card_plan import PLAN, TOOLS

from halfbyte.errors import HalfbyteError, PlanError
from halfbyte.rewoo import parse_plan, tool

AB = {"A", "B"}


def calls(text, tools=AB, **options):
    return [(s.id, s.tool, s.argument, s.depends_on) for s in parse_plan(text, tools, **options).steps]


def problems(text, tools=AB, **options):
    with pytest.raises(PlanError) as e:
        parse_plan(text, tools, **options)
    assert (e.value.line, e.value.column) == (e.value.problems[0].line, e.value.problems[0].column)
    return [(p.line, p.column, p.message) for p in e.value.problems]


def messages(text, tools=AB, **options):
    return " | ".join(message for _, _, message in problems(text, tools, **options))


CARD_STEPS = [
    (0, "DuckDuckGo", "Nobel Prize in Literature 2020 winner", ()),
    (1, "KnowledgeModel", "Who won the Nobel Prize in Literature in 2020, given :evidence0:?", (0,)),
    (2, "DuckDuckGo", "Most famous work of :evidence1:", (1,)),
    (3, "HyperlinkExtractor", ":evidence2:", (2,)),
    (4, "TextScraper", ":evidence3:", (3,)),
    (5, "KnowledgeModel", "What is the most famous work of :evidence1:, given :evidence4:?", (1, 4)),
]


def test_the_cards_plan():
    plan = parse_plan(PLAN, tools=TOOLS)
    assert [(s.id, s.tool, s.argument, s.depends_on) for s in plan.steps] == CARD_STEPS
    assert plan.answer == ":evidence5:"
    assert plan.warnings == ()
    assert plan.steps[0].plan.startswith("Begin by conducting")
    assert [(s.line, s.column) for s in plan.steps] == [(2 * n, 1) for n in range(1, 7)]
    assert plan.steps[1].references[0].column == 1 + PLAN.splitlines()[3].index(":evidence0:")


def test_the_cards_plan_that_has_lost_its_line_ends():
    assert calls(PLAN.replace("\n", " "), TOOLS) == CARD_STEPS


@pytest.mark.parametrize(
    ("text", "argument"),
    [
        (":evidence0: = A[a [b] c]", "a [b] c"),
        (":evidence0: = A[[[a]]]", "[[a]]"),
        (":evidence0: = A[a]]", "a]"),
        (":evidence0: = A[a] b]", "a] b"),
        (":evidence0: = A[see [1 for x]\nPlan: next\n:evidence1: = B[z]", "see [1 for x"),
        (":evidence0: = A[see [1\nand 2] for x]\n\nAnswer: :evidence0:", "see [1\nand 2] for x"),
        (":evidence0: = A[a [b] (end\n] of it\nPlan: x", "a [b] (end\n"),
        (":evidence0: = A[a [ b]", "a [ b"),
        (":evidence0: = A[one\ntwo\n\nthree]", "one\ntwo\n\nthree"),
        (":evidence0: = A[What?\nAnswer: ]\nAnswer: :evidence0:", "What?\nAnswer: "),
        (":evidence0: = A[]", ""),
        (":evidence0: = A[ ]", " "),
        (":evidence0: = A[f(x) = [1, 2][0]]", "f(x) = [1, 2][0]"),
        (":evidence0: = A[x].", "x"),
        (":evidence0: = A[x] (a search)", "x"),
    ],
)
def test_where_an_argument_ends(text, argument):
    assert parse_plan(text, AB).steps[0].argument == argument


def test_a_huge_argument():
    argument = "x [y] " * 200_000
    assert calls(f":evidence0: = A[{argument}]") == [(0, "A", argument, ())]


def test_a_plan_over_several_lines():
    plan = parse_plan("Plan: first\nthen second\n\n:evidence0: = A[x]\nAnswer: :evidence0:", AB)
    assert plan.steps[0].plan == "first\nthen second"


def test_several_references_each_an_edge_once():
    text = ":evidence0: = A[x]\n:evidence1: = A[y]\n:evidence2: = B[:evidence1: :evidence0: :evidence1:]"
    step = parse_plan(text, AB).steps[2]
    assert step.depends_on == (1, 0)
    assert len(step.references) == 3


@pytest.mark.parametrize(
    ("text", "argument", "warnings"),
    [
        (":evidence0: = A[x]\n:evidence1: = B[:Evidence0:]\nAnswer: :evidence1:", ":evidence0:", 1),
        (":evidence0: = A[x]\n:evidence1: = B[given :evidence0, ok]\nAnswer: :evidence1:", "given :evidence0:, ok", 1),
        (":EVIDENCE0 = A[x]\nevidence1: = B[:evidence0:]\nAnswer: :evidence1:", ":evidence0:", 2),
        (":evidence[0]: = A[x]\n:evidence1: = B[:evidence[0]:]\nAnswer: :evidence1:", ":evidence0:", 2),
        ("#E1 = A[x]\n#E2 = B[#e1]\nFinal answer: #E2", "#E1", 1),
    ],
)
def test_other_spellings_are_put_right_with_a_warning(text, argument, warnings):
    plan = parse_plan(text, AB)
    assert plan.steps[1].argument == argument
    assert plan.steps[1].depends_on == (plan.steps[0].id,)
    assert len(plan.warnings) == warnings
    assert all(w.line in (1, 2) for w in plan.warnings)


def test_one_is_not_ten():
    text = "".join(f":evidence{n}: = A[{n}]\n" for n in range(11))
    text += ":evidence11: = B[:evidence10: and :evidence1:]\nAnswer: :evidence11:"
    assert parse_plan(text, AB).steps[11].depends_on == (10, 1)
    text = "".join(f"#E{n} = A[{n}]\n" for n in range(1, 11)) + "#E11 = B[#E10, #E1]\nFinal answer: #E11"
    assert parse_plan(text, AB).steps[10].depends_on == (10, 1)


def test_hash_dialect():
    text = "Plan: a\n#E1 = A[x]\nPlan: b\n#E2 = B[y given #E1]\nFinal answer: #E2"
    assert calls(text) == [(1, "A", "x", ()), (2, "B", "y given #E1", (1,))]
    assert parse_plan(text, AB).answer == "#E2"


def test_the_papers_form_on_one_line_with_a_solver():
    text = "Plan: Find x. #E1 = A[x]\nPlan: Find y of #E1. #E2 = B[y of #E1]"
    plan = parse_plan(text, AB, without_answer="solver")
    assert calls(text) == [(1, "A", "x", ()), (2, "B", "y of #E1", (1,))]
    assert plan.steps[1].plan == "Find y of #E1."
    assert plan.answer is None
    assert parse_plan(text + "\nSolver: be brief", AB).instruction == "be brief"
    assert parse_plan(text + "\nSolver[be brief]", AB).answer is None


def test_dialects_do_not_mix():
    assert "names its evidence" in messages(":evidence0: = A[x]\n#E1 = B[y]")
    assert calls(":evidence0: = A[#E1 visa]") == [(0, "A", "#E1 visa", ())]


def test_no_answer_is_the_last_sink_or_an_error():
    text = ":evidence0: = A[x]\n:evidence1: = B[:evidence0:]\n"
    plan = parse_plan(text, AB)
    assert plan.answer == ":evidence1:"
    assert "no Answer" in plan.warnings[-1].message
    assert problems(text, without_answer="error") == [(3, 1, "the plan has no Answer")]
    assert parse_plan(text + "Answer:  \n", AB).answer == ":evidence1:"


def test_answers_with_prose():
    text = ":evidence0: = A[x]\n:evidence1: = B[y]\nAnswer: It is :evidence0:,\nor :Evidence1:.\n"
    plan = parse_plan(text, AB)
    assert plan.answer == "It is :evidence0:,\nor :evidence1:."
    assert [r.id for r in plan.answer_references] == [0, 1]
    assert parse_plan(":evidence0: = A[x]\nAnswer: [:evidence0:]", AB).answer == ":evidence0:"
    assert parse_plan(":evidence0: = A[x]\nAnswer: forty-two", AB).answer == "forty-two"


def test_what_a_model_says_to_itself_afterwards_is_left_out():
    plan = parse_plan(":evidence0: = A[x]\nAnswer: :evidence0:\n\nQuestion: another?\nPlan: p\n:evidence0: = B[q]", AB)
    assert plan.answer == ":evidence0:"
    assert len(plan.steps) == 1


def test_forward_references():
    plan = parse_plan(":evidence0: = A[given :evidence1:]\n:evidence1: = B[x]\nAnswer: :evidence0:", AB)
    assert plan.steps[0].depends_on == (1,)
    assert [s.id for s in plan.sinks] == [0]


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        (":evidence0: = A[:evidence0:]", 1, 1, "refers to itself"),
        ("Plan: p\n:evidence0: = A[:evidence7:]", 2, 17, "refers to :evidence7:, which no step makes"),
        (":evidence0: = A[x]\n\n:evidence0: = B[y]", 3, 1, "twice; the first is on line 1"),
        (":evidence0: = A[x]\n:evidence00: = B[y]", 2, 1, "twice; the first is on line 1"),
        (":evidence0: = Nope[x]", 1, 15, "there is no tool 'Nope'; there are A, B"),
        (":evidence0: = A[x]\nAnswer: :evidence3:", 2, 9, "the Answer refers to :evidence3:"),
        (":evidence0: = A[x] B[y]", 1, 20, "two calls"),
        (":evidence0: = A[x] and then B[y]\n", 1, 29, "two calls"),
        (":evidence0: = A[B[x]]", 1, 17, "calls B within its argument"),
        (":evidence0: = A[given B[x], do]", 1, 17, "calls B within its argument"),
        (":evidence0: = A", 1, 14, "is not followed by a call"),
        (":evidence0: =", 1, 14, "is not followed by a call"),
        (":evidence0: = A[x", 1, 16, "never closed: the plan ends"),
        (":evidence0: = A[see [1] and", 1, 16, "never closed: the plan ends"),
        (":evidence0: = A[x\nPlan: b\n:evidence1: = B[y]", 1, 16, "never closed: the next line"),
        (":evidence0: = A[x]\nAnswer: :evidence0:\n:evidence1: = A[y]", 3, 1, "comes after the Answer"),
        (":evidence0: = A[x]\nAnswer: a\nAnswer: b", 3, 1, "a second Answer"),
        (":evidence9999999999: = A[x]", 1, 1, "too long a number"),
        ("No plan, sorry.", 1, 1, "this is no plan"),
        ("", 1, 1, "this is no plan"),
        ("Answer: 42", 1, 1, "this is no plan"),
    ],
)
def test_what_is_refused_and_where(text, line, column, message):
    found = problems(text)
    assert found[0][:2] == (line, column), found
    assert message in found[0][2]
    assert len(found) == 1, found


def test_cycles_are_named_with_their_line():
    text = (
        ":evidence0: = A[x]\n:evidence1: = A[:evidence3:]\n:evidence2: = A[:evidence1:]\n:evidence3: = A[:evidence2:]\n"
    )
    text += ":evidence4: = A[:evidence1:]\nAnswer: :evidence4:"
    (found,) = problems(text)
    assert found == (2, 1, "a cycle: :evidence1: waits for :evidence3: waits for :evidence2: waits for :evidence1:")


def test_all_problems_come_in_one_report():
    text = ":evidence0: = X[:evidence9:]\n:evidence1: = A[:evidence1:]\n:evidence1: = B[y\nPlan: z\n:evidence2: = A[B[q]]\n"
    found = problems(text + "Answer: :evidence5:")
    assert [line for line, _, _ in found] == [1, 1, 2, 3, 5, 6]
    assert str(len(found)) in str(PlanError([*_located(found)]))


def _located(found):
    from halfbyte.rewoo import Problem

    return [Problem(*f) for f in found]


def test_a_step_that_cannot_be_read_is_not_reported_as_missing_too():
    assert len(problems(":evidence0: = A[x] B[y]\n:evidence1: = A[:evidence0:]\nAnswer: :evidence1:")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "Sure! Here is the plan:\n\n```\n{}```\nHope that helps.",
        "~~~text\n{}~~~",
        "\n\n\n{}\n\n",
        "Plan: only think\n{}",
    ],
)
def test_what_stands_round_a_plan(text):
    plan = "Plan: a\n:evidence0: = A[x]\n\nPlan: b\n\n:evidence1:=B [:evidence0:]\nAnswer: :evidence1:\n"
    for lines in (plan, plan.replace("\n", "\r\n"), plan.replace("=", "  =\t"), plan.replace("\n:ev", "\n  :ev")):
        parsed = parse_plan(text.format(lines), AB)
        assert [(s.id, s.tool, s.argument) for s in parsed.steps] == [(0, "A", "x"), (1, "B", ":evidence0:")]
        assert parsed.answer == ":evidence1:"
        assert parsed.warnings == ()


def test_lists_and_headings():
    text = "1. **Plan:** a\n- :evidence0: = A[x]\n2. Plan 2: b\n- :evidence1: = B[y]\n**Final Answer:** :evidence1:"
    assert [s.tool for s in parse_plan(text, AB).steps] == ["A", "B"]


def test_any_tool_goes_without_a_list():
    assert calls(":evidence0: = Whatever[x]", None) == [(0, "Whatever", "x", ())]
    assert "calls C within" in messages(":evidence0: = Whatever[C[x]]", None)
    assert calls(":evidence0: = A[list[int]]") == [(0, "A", "list[int]", ())]


def test_arguments_are_checked_by_type():
    @tool
    async def wait(seconds: float) -> str:
        """Wait."""
        return f"{seconds}"

    assert problems(":evidence0: = wait[soon]", [wait]) == [
        (1, 20, "the argument of :evidence0: must be a number, not 'soon'")
    ]
    assert len(parse_plan(":evidence0: = wait[1]\n:evidence1: = wait[:evidence0:]", [wait]).steps) == 2


def test_what_is_not_a_text():
    with pytest.raises(HalfbyteError):
        parse_plan(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1_000_000,
        "a" * 1_000_000,
        ":Evidence0:" * 90_000,
        "\n" * 100_000,
        "#E1 = A[x] " * 20_000,
        "".join(f":evidence{n}:" for n in range(60_000)),
        "Plan: " * 160_000,
        " " * 1_000_000,
        "A[" * 400_000,
    ],
    ids=["brackets", "word", "references", "lines", "one-line", "undefined", "plans", "spaces", "calls"],
)
def test_a_megabyte_is_read_in_linear_time(text):
    for before in ("", ":evidence0: = A["):
        for after in ("", "]"):
            start = time.process_time()
            with suppress(PlanError):
                parse_plan(before + text + after, AB)
            assert time.process_time() - start < 6


@pytest.mark.parametrize(
    "text",
    [
        "**Plan:** a\n**:evidence0:** = A[x]\n**Answer:** :evidence0:",
        "**Plan**: a\n`:evidence0: = A[x]`\n**Answer**: :evidence0:",
        "\ufeffPlan: a\n:evidence0: = A[x]\nAnswer: :evidence0:",
        "Plan: a\u2028:evidence0: = A[x]\u2028\nAnswer: :evidence0:",
    ],
)
def test_marks_round_labels_and_odd_line_ends(text):
    plan = parse_plan(text, {"A"})
    assert [(step.plan, step.tool, step.argument) for step in plan.steps] == [("a", "A", "x")]
    assert plan.answer.strip() == ":evidence0:"
    assert not plan.warnings


def test_an_argument_may_hold_a_line_that_begins_as_a_plan():
    plan = parse_plan(":evidence0: = A[one\nPlan: two\nthree]\nAnswer: :evidence0:", {"A"})
    assert plan.steps[0].argument == "one\nPlan: two\nthree"
    with pytest.raises(PlanError) as e:  # but a ] in that line closes nothing by itself
        parse_plan(":evidence0: = A[one\nPlan: two [3] four\n:evidence1: = A[x]\nAnswer: :evidence1:", {"A"})
    assert (e.value.line, e.value.column) == (1, 16)


@pytest.mark.parametrize("tools", [None, {"A"}, {"A", "B"}])
def test_a_whole_argument_that_is_a_call_is_refused(tools):
    with pytest.raises(PlanError, match="calls B within its argument"):
        parse_plan(":evidence0: = A[B[x]]", tools)
    assert parse_plan(":evidence0: = A[x[0]]", tools).steps[0].argument == "x[0]"


def test_an_answer_without_evidence_is_told():
    plan = parse_plan("Plan: p\n:evidence0: = A[x]\nAnswer: forty-two", AB)
    assert [(w.line, str(w)) for w in plan.warnings] == [
        (3, "line 3, column 9: the Answer refers to no evidence: it says the same whatever is found")
    ]
    assert not parse_plan("Plan: p\n:evidence0: = A[x]\nAnswer: it is :evidence0:", AB).warnings
