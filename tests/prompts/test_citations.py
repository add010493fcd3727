"""Citations of closed-context answers, and what is wrong with them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.prompts.context import Block, ContextPrompt

GREEN = Block("Blueberries are now green.", {"date": "2021-01-01", "url": "https://web.site/123"})
RED = Block("Strawberries stay red, says Ann.", [("author", "Ann"), ("author", "Bob"), ("url", "https://web.site/9")])
PROMPT = ContextPrompt([GREEN, RED], "What color are blueberries? And strawberries? Source?")
UNASKED = ContextPrompt([GREEN], "What color are blueberries?")
CARD = "Blueberries are now green.\n\nSource:\ndate: 2021-01-01\nurl: https://web.site/123"


def kinds(prompt, answer):
    return [problem.kind for problem in prompt.check(answer).problems]


def test_the_cards_answer():
    report = PROMPT.check(CARD)
    assert report.ok
    assert report.cited == {0}
    (citation,) = report.citations
    assert citation.complete
    assert (citation.span.line, citation.span.column) == (3, 1)
    assert CARD[citation.span.start : citation.span.end].startswith("Source:\ndate")
    assert PROMPT.parse_answer(CARD).text == "Blueberries are now green."
    assert CARD.endswith(PROMPT.cite([0]))


@pytest.mark.parametrize(
    "answer",
    [
        CARD.replace("Source:", "Sources:"),
        CARD.replace("Source:", "Reference(s):"),
        CARD.replace("Source:", "references:"),
        CARD.replace("Source:", "**Source:**"),
        CARD.replace("Source:\n", "Source: "),
        CARD.replace("Source:\n", "Source:\n\n"),
        CARD.replace("date:", "- date:").replace("url:", "- url:"),
        CARD.replace("\n", "\r\n"),
        "Blueberries are now green. Source: date: 2021-01-01 url: https://web.site/123",
        "Blueberries are now green (Source: url: https://web.site/123)",
        "Blueberries are now green.\nSource: https://web.site/123",
        "Blueberries are now green.\nSource:\nhttps://web.site/123",
        "Blueberries are now green. Source: https://web.site/123.",
        "Blueberries are now green (source: https://web.site/123).",
        "Blueberries are now green [Source 1: url: https://web.site/123].",
        "Blueberries are now green. Source: 2021-01-01, https://web.site/123",
        "Blueberries are now green. Source: date: 2021-01-01, url: https://web.site/123",
        "Blueberries are now green. Source:\ndate: 2021-01-01\nurl: https://web.site/123",
        CARD.replace("Source:", "Source 1:"),
        CARD.replace("date:", "Date:").replace("url:", "URL:"),
        CARD.replace("date:", "[date:").replace("\nurl:", "]\n[url:") + "]",
        CARD.replace("date:", "```\ndate:") + "\n```",
        CARD.replace("https://web.site/123", "[https://web.site/123](https://web.site/123)"),
    ],
)
def test_dialects(answer):
    report = PROMPT.check(answer)
    assert report.ok
    assert report.cited == {0}


def test_several_blocks_cite_separately():
    answer = f"{CARD}\n\nStrawberries are red.\n\nSource:\nauthor: Ann\nauthor: Bob\nurl: https://web.site/9"
    report = PROMPT.check(answer)
    assert report.ok
    assert [citation.blocks for citation in report.citations] == [(0,), (1,)]
    assert all(citation.complete for citation in report.citations)
    assert [group.statement.strip() for group in PROMPT.parse_answer(answer).groups] == [
        "Blueberries are now green.",
        "Strawberries are red.",
    ]


def test_several_blocks_under_one_header():
    report = PROMPT.check(
        f"Blueberries are green and strawberries red.\n\n{PROMPT.cite([0, 1])}".replace(
            "\n\nSource:\nauthor", "\nauthor"
        )
    )
    assert report.ok
    assert [citation.blocks for citation in report.citations] == [(0,), (1,)]


@pytest.mark.parametrize(
    "answer",
    [
        "Blueberries are green (Source: url: https://web.site/123), strawberries red (Source: url: https://web.site/9).",
        "Blueberries are green. Source: https://web.site/123 Strawberries stay red. Source: author: Ann",
        "- Blueberries are green. Source: https://web.site/123\n- Strawberries stay red. Source: https://web.site/9",
        "Green blueberries, red strawberries [Source 1: https://web.site/123][Source 2: https://web.site/9].",
    ],
)
def test_several_statements_in_a_line(answer):
    report = PROMPT.check(answer)
    assert report.ok
    assert [citation.blocks for citation in report.citations] == [(0,), (1,)]
    assert "ource" not in PROMPT.parse_answer(answer).text


def test_what_stands_behind_a_citation_is_said():
    answer = "Blueberries are green (Source: https://web.site/123), so they say. Source: 2021-01-01 And that is all."
    assert PROMPT.parse_answer(answer).text == "Blueberries are green, so they say. And that is all."


@pytest.mark.parametrize(
    "prose", ["They asked for the Source: nobody knew it.", "The source: date unknown (source: me)."]
)
def test_the_word_within_a_sentence_is_prose(prose):
    assert PROMPT.parse_answer(prose).groups == ()


def test_metadata_with_a_key_that_is_the_header():
    daily = Block("Plums are purple.", {"source": "The Daily Plum, vol. 3 (2020)", "title": "On Plums"})
    prompt = ContextPrompt([daily], "What color are plums? Source?")
    for answer in (
        f"Plums are purple.\n\n{prompt.cite([0])}",
        "Plums are purple. Source: The Daily Plum, vol. 3 (2020)",
    ):
        assert prompt.check(answer).ok
        assert prompt.check(answer).cited == {0}


def test_repeated_citation_of_the_same_block():
    report = PROMPT.check(f"Green blueberries.\n{PROMPT.cite([0])}\n{PROMPT.cite([0])[8:]}")
    assert [citation.blocks for citation in report.citations] == [(0,), (0,)]


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        (UNASKED, CARD, ["unasked"]),
        (UNASKED, "Green.", []),
        (PROMPT, "Green.", ["missing"]),
        (PROMPT, CARD.replace("123", "124"), ["unknown"]),
        (PROMPT, CARD + "\nauthor: Nobody", ["unknown"]),
        (PROMPT, "Green.\nSource:", ["unknown"]),
        (PROMPT, "Green blueberries.\nSource:\ndate: 2021-01-01\nurl: https://web.site/9", ["unused", "mixed"]),
        (PROMPT, f"Strawberries stay red.\n\n{PROMPT.cite([0])}", ["unused"]),
    ],
)
def test_problems(prompt, answer, expected):
    assert kinds(prompt, answer) == expected


def test_key_like_lines_in_text_are_not_metadata():
    prompt = ContextPrompt([Block("url: https://evil.site", {"url": "https://web.site/1"})], "What url? Cite it.")
    assert kinds(prompt, "It is evil.site.\nSource:\nurl: https://evil.site") == ["unknown"]


def test_blocks_with_the_same_metadata_are_all_named():
    prompt = ContextPrompt([Block("a cat", {"x": "1"}), Block("a dog", {"x": "1"})], "Source?")
    (citation,) = prompt.check("A dog.\nSource:\nx: 1").citations
    assert citation.blocks == (0, 1)


pieces = st.sampled_from(
    [
        "Source:",
        "Sources: ",
        "Reference(s):",
        "date: 2021-01-01",
        "url: https://web.site/9",
        "author: Ann",
        "x: y",
        "\n",
        "\n\n",
        " ",
        "green",
        "- ",
    ]
)


@given(st.lists(pieces, max_size=15).map("".join) | st.text())
def test_any_answer_gives_a_report(answer):
    report = PROMPT.check(answer)
    assert all(0 <= i < 2 for i in report.cited)
    assert all(problem.line >= 1 for problem in report.problems)
    for citation in report.citations:
        assert 0 <= citation.span.start <= citation.span.end <= len(answer)
