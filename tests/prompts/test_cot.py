"""Chain of thought: the card's example, and answers that contradict themselves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.errors import PromptError
from halfbyte.prompts.cot import ChainOfThought

COT = ChainOfThought()
ANSWER = """\
Solution 1: Each player plays every other player once.
n(n-1)/2 = 45

Solving this equation gives us n=10.

Final answer: There were 10 players in the tournament.

Solution 2: Another way is by triangular numbers.

Final answer: There were 10 players in the tournament.

Solution 3: We could also use trial and error.

Final answer: There were 10 players in the tournament.

Ranking of solutions from best to worst:
1. Solution 1: This solution uses direct mathematical reasoning.
2. Solution 2: This solution uses triangular numbers,
which need more steps.
3. Solution 3: This solution relies on trial and error.

Best and final answer: There were 10 players in the tournament."""


def test_the_prompt():
    asked = COT.render("How many players participated in the tournament?")
    assert asked == (
        "How many players participated in the tournament? Offer several potential answers, rank them according to "
        "mathematical logic, and pick the most feasible one."
    )


def test_the_cards_answer():
    found = COT.parse(ANSWER)
    assert found.ok
    assert [s.number for s in found.solutions] == [1, 2, 3]
    assert found.solutions[0].text.endswith("gives us n=10.")
    assert {s.answer for s in found.solutions} == {found.best} == {"There were 10 players in the tournament."}
    assert [(r.place, r.solution) for r in found.ranking] == [(1, 1), (2, 2), (3, 3)]
    assert found.ranking[1].reason == "This solution uses triangular numbers,\nwhich need more steps."
    assert (found.solutions[1].span.line, found.best_span.line) == (8, 22)
    assert ANSWER[found.solutions[1].span.start :].startswith("Solution 2")


def test_markdown_and_crlf():
    dressed = ANSWER.replace("Solution 2: A", "**Solution 2:** A").replace(
        "Best and final answer:", "**Best and final answer:**"
    )
    assert COT.parse(dressed.replace("\n", "\r\n")).ok


@pytest.mark.parametrize(
    ("old", "new", "kinds"),
    [
        ("Best and final answer: There were 10", "Best and final answer: There were 9", ["disagreement"]),
        (
            "Best and final answer: There were 10 players in the tournament.",
            "Best and final answer: there  were 10 players in the tournament",
            [],
        ),
        ("2. Solution 2:", "2. Solution 3:", ["ranking", "ranking"]),  # 2 is not there, 3 is there twice
        ("2. Solution 2:", "2. Solution 7:", ["ranking", "ranking"]),
        ("3. Solution 3:", "4. Solution 3:", ["ranking"]),
        ("Solution 3: We", "Solution 2: We", ["solutions", "ranking"]),
        ("by triangular numbers.\n\nFinal answer:", "by triangular numbers.\n\nAnswer:", ["answer"]),
        ("Ranking of solutions from best to worst:", "I like them all:", ["ranking"] * 3),
    ],
)
def test_what_is_wrong_is_reported(old, new, kinds):
    assert old in ANSWER
    assert [p.kind for p in COT.parse(ANSWER.replace(old, new)).problems] == kinds


def test_a_disagreement_is_located():
    (problem,) = COT.parse(
        ANSWER.replace("answer: There were 10 players in the tournament.\n\nSolution 2", "answer: 9\n\nSolution 2")
    ).problems
    assert (problem.kind, problem.line) == ("disagreement", 22)


@pytest.mark.parametrize(("text", "line"), [("", 1), ("There were 10.", 1), (ANSWER[: ANSWER.index("Best")], 22)])
def test_what_cannot_be_read(text, line):
    with pytest.raises(PromptError) as caught:
        COT.parse(text)
    assert caught.value.line == line


def sample(answer):
    return ANSWER.replace("There were 10 players in the tournament.", answer)


def test_vote():
    vote = COT.vote([sample("9"), sample("10."), sample("10"), "nothing"])
    assert (vote.answer, vote.votes, vote.readable, vote.unreadable, vote.tie) == ("10.", 2, 3, 1, False)
    assert vote.tally == {"9": 1, "10.": 2}
    assert COT.vote([sample("9"), sample("10")]).tie
    with pytest.raises(PromptError):
        COT.vote(["nothing"])


def test_a_vote_by_another_key():
    by_number = ChainOfThought(key=lambda answer: tuple(c for c in answer if c.isdigit()))
    assert by_number.vote([sample("There are 10"), sample("10 players"), sample("9")]).votes == 2


pieces = st.sampled_from(
    [*ANSWER.splitlines(keepends=True), "Solution 99999999999:", "1) Solution ²: x", "Final answer:\n", "\r\n"]
)


@given(st.lists(pieces, max_size=15).map("".join) | st.text())
def test_any_text_is_read_or_refused_with_a_place(text):
    try:
        found = COT.parse(text)
    except PromptError as error:
        assert error.line >= 1
    else:
        assert found.solutions
        assert all(p.line >= 1 for p in found.problems)
