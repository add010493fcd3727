"""Answers that stand in the passage: what may be quoted, and what a reader is shown."""

from __future__ import annotations

import asyncio

import pytest

from halfbyte.rewoo import tools
from halfbyte.rewoo.completion import Completion
from halfbyte.rewoo.quotes import MOST_READ, answer_terminal, quote_terminal, relevant
from halfbyte.rewoo.tools.knowledge_model import quoting

llguidance = pytest.importorskip("llguidance")

PASSAGE = (
    "Halden Glassworks is a company that makes lenses. It was founded in 1911 by Mira Halden, who was born in Norby. "
    "The river Aska flows through Norby, under a bridge; 12.5% of it is silt."
)


class Bytes:
    """A token a byte, and one that ends the text."""

    eos_token_id = 256
    bos_token_id = None
    tokens = (*(bytes([i]) for i in range(256)), b"<eos>")
    special_token_ids = (256,)

    def __call__(self, text):
        return list(text if isinstance(text, bytes) else text.encode())


TOKENIZER = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Bytes()))


def allows(terminal, text):
    matcher = llguidance.LLMatcher(TOKENIZER, llguidance.LLMatcher.grammar_from_lark(f"start: QUOTE\n{terminal}"))
    assert not matcher.is_error(), matcher.get_error()
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


def test_a_quote_is_whole_words_of_one_sentence():
    terminal = quote_terminal(PASSAGE)
    for quote in ("Mira Halden", "1911", "founded in 1911 by Mira Halden, who", "12.5%", "lenses"):
        assert allows(terminal, quote), quote
    for other in ("", "Mira Hal", "Mira Aska", "lenses. It was", "lenses.", " lenses", "Mira  Halden", "191"):
        assert not allows(terminal, other), other


def test_an_answer_does_not_repeat_the_question():
    founder = answer_terminal(PASSAGE, "Who founded Halden Glassworks")
    assert allows(founder, "Mira Halden")  # a name with a word of its own stays whole
    assert not allows(founder, "Halden Glassworks")
    river = answer_terminal(PASSAGE, "Which river flows through Norby")
    assert allows(river, "Aska")
    for other in ("The", "The river Aska", "Aska flows", "Norby"):
        assert not allows(river, other), other


def test_an_answer_that_only_repeats_the_question_is_better_than_none():
    assert allows(answer_terminal("Norby lies on the Aska", "Norby lies on the Aska"), "Aska")


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Which was founded earlier, Amber Tannery or Solway Kilns?", ["Amber Tannery", "Solway Kilns"]),
        ("What is it, a, b or c", ["a", "b", "c"]),
    ],
)
def test_a_choice_is_answered_by_one_of_it(question, options):
    terminal = answer_terminal("Solway Kilns is older.", question)
    assert all(allows(terminal, option) for option in options)
    assert not allows(terminal, "older")


def test_a_comma_alone_is_no_choice():
    assert allows(answer_terminal(PASSAGE, "In 1911, who founded the works or the shop"), "Mira Halden")


def test_no_words_no_grammar():
    assert quote_terminal(" \n?!") == ""
    assert answer_terminal("", "What?") == ""
    assert quoting("What is it, given ?") == ("What is it, given ?", None)
    assert quoting("What is it?") == ("What is it?", None)


def test_any_text_makes_a_grammar():
    for text in ('say "é" \\ {x}\u2028y', "a" * 5000, "[x] :evidence0: #E1", "a, b; c\n\n- d", "\x00 b"):
        for terminal in (quote_terminal(text), answer_terminal(text, 'which é, a or "b\\c"?')):
            assert not terminal or isinstance(allows(terminal, "a"), bool)


def test_a_long_passage_is_cut_to_what_bears_on_the_question():
    padding = " ".join(f"Sheep number {n} stood on a hill." for n in range(400))
    kept = relevant(f"{padding} The founder was Mira Solberg. {padding}", "Who was the founder")
    assert len(kept) <= MOST_READ
    assert "The founder was Mira Solberg." in kept
    assert relevant(PASSAGE, "anything") == PASSAGE
    assert len(relevant("x" * 9000, "x")) == MOST_READ


def test_the_reader_is_asked_behind_the_passage_and_answers_in_its_words():
    asked = []

    class Model:
        async def complete(self, prompt, *, max_tokens=512, grammar=None):
            asked.append((prompt, grammar))
            return Completion(" Aska\n", 9, 2)

    reader = tools.knowledge_model(Model(), quote=True, instruction="Read.")
    found = asyncio.run(reader.call(f"Which river flows through Norby, given {PASSAGE}?"))
    assert (found.text, found.prompt_tokens, found.completion_tokens) == ("Aska", 9, 2)
    prompt, grammar = asked[0]
    assert prompt == f"Read.\n\n{PASSAGE}\nQuestion: Which river flows through Norby?\nShort answer:"
    assert grammar.startswith("start: ")
    asyncio.run(tools.knowledge_model(Model()).call("Why, given x?"))
    assert asked[1] == ("Why, given x?", None)
