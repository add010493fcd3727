"""The planner's prompt is the card's, byte for byte."""

from __future__ import annotations

from halfbyte.rewoo import planner_prompt, tools
from halfbyte.rewoo.planner import few_shot_prompt, repair_prompt, solver_prompt

CARD = """\
Please construct a systematic plan to generate an optimal response to the user instruction, utilizing a set of provided tools. Each plan will correspond to an evidence value, which will be the output of one of the available functions given an input string that could be the user's question, one or more prior evidence values, or a combination of both.

Here are the tools available to be called:
DuckDuckGo[input]: Tool that enables the user to search for information using the DuckDuckGo search engine. This tool is helpful in locating a suitable list of sites that may contain the answer to the user's query. It does not directly answer the question but finds a list of sites that might have the answer.
TextScraper[input]: Load one or more websites from the input string containing newline delimited links, where input is one or more links, and produces plain text output containing the content of the links.
HyperlinkExtractor[input]: Extract links from plain text and produces a plain text, newline delimited response of links.
KnowledgeModel[input]: Question answering language model, particularly useful in answering questions based on an input passage of text. The input must be a text question that references an :evidence[n]: variable, e.g. What color is the cat, given :evidence1:?

The output should be in format:
Plan: [first action to take based on input question]
:evidence0: = [function to call with input parameter]
Plan: [next action to take, based on result of :evidence0:]
:evidence1: = [next function to call and input parameter, which may include reference to previous evidence, e.g. "Given context :evidence0"]
...
Answer: [:evidence[n]: containing the final answer.]

Question: Who won the Nobel Prize in Literature in 2020 and what is their most famous work?"""


def test_the_cards_prompt():
    four = [tools.duckduckgo(), tools.text_scraper(), tools.hyperlink_extractor, tools.knowledge_model(None)]
    question = "Who won the Nobel Prize in Literature in 2020 and what is their most famous work?"
    assert planner_prompt(four, question) == CARD


def test_a_repair_shows_the_plan_and_the_error():
    prompt = repair_prompt("P", "Plan: x", ["line 1, column 2: wrong"])
    assert prompt.startswith("P\n\n")
    assert "Plan: x" in prompt
    assert "line 1, column 2: wrong" in prompt


def test_a_solver_sees_all_evidence():
    prompt = solver_prompt("Why?", [("look", "#E1", "{because}"), ("think", "#E2", "so")], "Be brief.")
    assert "Plan: look\nEvidence #E1: {because}" in prompt
    assert prompt.count("Question: Why?") == 2
    assert "Be brief.\n" in prompt


def test_worked_examples_stand_before_the_question():
    prompt = few_shot_prompt([tools.calculator], [("2 + 2?", "Plan: add\n:evidence0: = Calculator[2 + 2]\n")], "3 + 3?")
    head, shown = prompt.split("\n\n", 1)
    assert head.splitlines()[1].startswith("Calculator[input]: ")
    assert shown == "Question: 2 + 2?\nPlan: add\n:evidence0: = Calculator[2 + 2]\n\nQuestion: 3 + 3?\n"
