"""What the grammars allow can be run, and the card's own plan is allowed."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from card_plan import PLAN, TOOLS

from halfbyte.errors import PlanError, RequestError
from halfbyte.rewoo import parse_plan, plan_gbnf, plan_grammar, tool, tools

llguidance = pytest.importorskip("llguidance")


@pytest.fixture(scope="module")
def bytes_tokenizer():
    class Bytes:
        """A token a byte, and one that ends the text."""

        eos_token_id = 256
        bos_token_id = None
        tokens = (*(bytes([i]) for i in range(256)), b"<eos>")
        special_token_ids = (256,)

        def __call__(self, text):
            return list(text if isinstance(text, bytes) else text.encode())

    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(Bytes()))


def lark(kind, tools, steps):
    if kind == "lark":
        return plan_grammar(tools, steps)
    from llguidance.gbnf_to_lark import gbnf_to_lark

    return gbnf_to_lark(plan_gbnf(tools, steps))


def allows(tokenizer, grammar, text):
    matcher = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_lark(grammar))
    assert not matcher.is_error(), matcher.get_error()
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


@pytest.mark.parametrize("kind", ["lark", "gbnf"])
def test_the_cards_plan_is_allowed(bytes_tokenizer, kind):
    assert allows(bytes_tokenizer, lark(kind, TOOLS, 8), PLAN.strip())


@pytest.mark.parametrize("kind", ["lark", "gbnf"])
@pytest.mark.parametrize(
    "text",
    [
        "Plan: a\n:evidence0: = C[x]\nAnswer: :evidence0:",
        "Plan: a\n:evidence1: = A[x]\nAnswer: :evidence1:",
        "Plan: a\n:evidence0: = A[:evidence0:]\nAnswer: :evidence0:",
        "Plan: a\n:evidence0: = A[x]\nAnswer: :evidence1:",
        "Plan: a\n:evidence0: = A[x]\nAnswer: none",
        "Plan: a\n:evidence0: = A[B[x]]\nAnswer: :evidence0:",
        "Plan: a\n:evidence0: = A[x] B[y]\nAnswer: :evidence0:",
        "Plan: a\n:evidence0: = A[]\nAnswer: :evidence0:",
        "Plan: a\n",
    ],
)
def test_what_cannot_be_run_is_not_allowed(bytes_tokenizer, kind, text):
    assert not allows(bytes_tokenizer, lark(kind, ["A", "B"], 3), text)


def test_whatever_is_drawn_under_the_grammar_can_be_run(bytes_tokenizer):
    grammar = llguidance.LLMatcher.grammar_from_lark(plan_grammar(["A", "Bc-2"], 4))
    rng = random.Random(5)
    lively = b"]]]\n:e1 :["
    for _ in range(15):
        matcher, text = llguidance.LLMatcher(bytes_tokenizer, grammar), bytearray()
        while not matcher.is_stopped():
            mask = matcher.compute_bitmask()
            allowed = [i for i in range(257) if mask[i // 8] >> (i % 8) & 1 and (i < 128 or i == 256)]
            wanted = [i for i in allowed if i in lively]
            token = rng.choice(wanted if wanted and rng.random() < 0.5 else allowed)
            matcher.consume_token(token)
            if token < 256:
                text.append(token)
        plan = parse_plan(text.decode(), {"A", "Bc-2"})
        assert [step.id for step in plan.steps] == list(range(len(plan.steps)))


@pytest.mark.parametrize("names", [[], ["a b"], ['x"'], ["é"], ["A", "1"]])
def test_names_that_cannot_stand_in_a_plan(names):
    with pytest.raises(RequestError):
        plan_grammar(names)
    with pytest.raises(RequestError):
        plan_gbnf(names)


async def count(n: int) -> str:
    """Count."""


async def weigh(kilos: float) -> str:
    """Weigh."""


async def switch(on: bool) -> str:
    """Switch."""


async def send(request: dict) -> str:
    """Send."""


async def say(text: str) -> str:
    """Say."""


TYPED = [tool(f) for f in (count, weigh, switch, send, say)]


@pytest.mark.parametrize("kind", ["lark", "gbnf"])
def test_arguments_are_of_their_tools_types(bytes_tokenizer, kind):
    grammar = lark(kind, TYPED, 2)
    first = ["count[12]", "count[-3]", "weigh[1.5]", "switch[true]", "switch[false]", "send[{}]"]
    first += ['send[{"to": "Ann", "n": -2.5, "ok": null}]', "say[12: a question?]"]
    for call in first:
        text = f"Plan: a\n:evidence0: = {call}\nAnswer: :evidence0:"
        assert allows(bytes_tokenizer, grammar, text), call
        parse_plan(text, TYPED)
    for call in ("count[two]", "count[1.5]", "count[]", "weigh[1 kg]", "switch[maybe]", "send[Ann]", 'send[{"a"}]'):
        text = f"Plan: a\n:evidence0: = {call}\nAnswer: :evidence0:"
        assert not allows(bytes_tokenizer, grammar, text), call
        with pytest.raises(PlanError):
            parse_plan(text, TYPED)
    for call in ("count[:evidence0:]", "send[:evidence0:]", "say[a :evidence0:]"):
        text = f"Plan: a\n:evidence0: = say[x]\nPlan: b\n:evidence1: = {call}\nAnswer: :evidence1:"
        assert allows(bytes_tokenizer, grammar, text), call
        parse_plan(text, TYPED)


def plan_of(*calls):
    steps = "".join(f"Plan: a\n:evidence{n}: = {call}\n" for n, call in enumerate(calls))
    return f"{steps}Answer: :evidence{len(calls) - 1}:"


LOOKUP = tool(name="Lookup", form="quote", gives_pages=True)(say)
WORLD = [LOOKUP, tools.knowledge_model(None), tools.calculator]


def test_names_are_quoted_and_pages_are_read(bytes_tokenizer):
    grammar = plan_grammar(WORLD, 5, "Who founded Orrin Mills [in 1899]?")
    for calls in (
        ["Lookup[Orrin Mills]"],
        ["Lookup[Orrin Mills]", "KnowledgeModel[Who founded it, given :evidence0:?]", "Lookup[:evidence1:]"],
        ["Lookup[Mills]", "Lookup[1899]", "KnowledgeModel[Who, given :evidence0: :evidence1:?]"],
        ["Lookup[Mills]", "KnowledgeModel[Year, given :evidence0:?]", "Calculator[(:evidence1: - 12) * 2]"],
        ["Calculator[2 + 2]", "KnowledgeModel[What is it, given :evidence0:?]"],
    ):
        assert allows(bytes_tokenizer, grammar, plan_of(*calls)), calls
        parse_plan(plan_of(*calls), WORLD)
    for calls in (
        ["Lookup[Orrin Works]"],  # not in the question
        ["Lookup[Mills]", "Lookup[:evidence0:]"],  # a page is no name
        ["Lookup[Mills]", "Calculator[:evidence0: + 1]"],  # and no number
        ["KnowledgeModel[Who founded Orrin Mills?]"],  # there is nothing to read yet
        ["Lookup[Mills]", "KnowledgeModel[Who founded it?]"],
        ["Lookup[Mills]", "Lookup[1899]", "KnowledgeModel[Who, given :evidence0: :evidence0:?]"],  # read twice
        ["Calculator[input]"],
    ):
        assert not allows(bytes_tokenizer, grammar, plan_of(*calls)), calls
    unused = "Plan: a\n:evidence0: = Lookup[Mills]\nPlan: b\n:evidence1: = Lookup[1899]\nAnswer: :evidence0:"
    assert not allows(bytes_tokenizer, grammar, unused)  # the last step would be for nothing


def test_without_a_question_or_another_tool_anything_may_be_asked(bytes_tokenizer):
    assert allows(bytes_tokenizer, plan_grammar(WORLD, 2), plan_of("Lookup[anything at all]"))
    alone = plan_grammar([tools.knowledge_model(None)], 2)
    assert allows(bytes_tokenizer, alone, plan_of("KnowledgeModel[Who wrote Solaris?]"))


def test_the_cards_plan_is_allowed_with_the_cards_tools(bytes_tokenizer):
    four = [tools.duckduckgo(), tools.text_scraper(), tools.hyperlink_extractor, tools.knowledge_model(None)]
    question = "Who won the Nobel Prize in Literature in 2020 and what is their most famous work?"
    assert allows(bytes_tokenizer, plan_grammar(four, 8, question), PLAN.strip())


def test_every_choice_of_tools_makes_a_grammar(bytes_tokenizer):
    given = [LOOKUP, tools.duckduckgo(), tools.text_scraper(), tools.hyperlink_extractor, *WORLD[1:]]
    for few in (*([one] for one in given), *combinations(given, 2), *combinations(given, 3)):
        grammar = plan_grammar(few, 3, "Who founded Orrin Mills?")
        matcher = llguidance.LLMatcher(bytes_tokenizer, llguidance.LLMatcher.grammar_from_lark(grammar))
        assert not matcher.is_error(), matcher.get_error()


def test_more_steps_than_rows_of_pages_are_kept_for(bytes_tokenizer):
    grammar = plan_grammar(WORLD, 12, "Orrin Mills")
    assert allows(bytes_tokenizer, grammar, plan_of(*["Lookup[Orrin Mills]"] * 12))
    assert not allows(bytes_tokenizer, grammar, plan_of(*["Lookup[Orrin Mills]"] * 13))
