"""Closed-context prompts: built and read back, whatever the text holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.errors import PromptError
from halfbyte.prompts.context import Block, ContextPrompt, escape, unescape

CARD = """\
BEGININPUT
BEGINCONTEXT
date: 2021-01-01
url: https://web.site/123
ENDCONTEXT
In a shocking turn of events, blueberries are now green, but will be sticking with the same name.
ENDINPUT
BEGININSTRUCTION
What color are bluberries? Source?
ENDINSTRUCTION"""
BLOCK = Block(
    "In a shocking turn of events, blueberries are now green, but will be sticking with the same name.",
    {"date": "2021-01-01", "url": "https://web.site/123"},
)


def test_the_card_is_built_to_the_byte_and_read_back():
    prompt = ContextPrompt([BLOCK], "What color are bluberries? Source?")
    assert prompt.render() == CARD
    read = ContextPrompt.parse(CARD)
    assert read == prompt
    assert read.asks_source
    assert (read.blocks[0].span.line, read.blocks[0].span.column) == (1, 1)
    assert CARD[read.blocks[0].span.start : read.blocks[0].span.end].endswith("ENDINPUT")


DELIMITERS = [f"{side}{name}" for side in ("BEGIN", "END") for name in ("INPUT", "CONTEXT", "INSTRUCTION")]
words = st.sampled_from([*DELIMITERS, "BEGIN", "END", "\\", "INPUT", "\n", "\r\n", "\r", ": ", "a", " ", "  b\n"])
texts = st.lists(words, max_size=8).map("".join) | st.text(max_size=20)
keys = texts.map(lambda t: t.replace(":", "").replace("\n", "").replace("\r", "").strip() or "k")
values = texts.map(lambda t: t.replace("\n", "").replace("\r", ""))
blocks = st.builds(Block, texts, st.lists(st.tuples(keys, values), max_size=3))


@given(texts)
def test_escape_is_reversible_and_hides_every_delimiter(text):
    assert unescape(escape(text)) == text
    assert not any(word in escape(text) for word in DELIMITERS)


@given(st.lists(blocks, min_size=1, max_size=3), texts.filter(str.strip))
def test_nothing_breaks_out(given_blocks, instruction):
    prompt = ContextPrompt(given_blocks, instruction)
    text = prompt.render()
    assert ContextPrompt.parse(text) == prompt
    for word in ("BEGININPUT", "ENDINPUT", "BEGINCONTEXT", "ENDCONTEXT"):
        assert text.count(word) == len(given_blocks)
    assert text.count("BEGININSTRUCTION") == text.count("ENDINSTRUCTION") == 1


@given(st.lists(st.sampled_from([*DELIMITERS, "key: value", "text", ""]), max_size=12).map("\n".join) | st.text())
def test_any_text_is_read_or_refused_with_a_place(text):
    try:
        prompt = ContextPrompt.parse(text)
    except PromptError as error:
        assert error.line >= 1
        assert error.column >= 1
    else:
        assert ContextPrompt.parse(prompt.render()) == prompt


def test_what_may_be_left_out():
    bare = "BEGININPUT\nBEGINCONTEXT\nENDCONTEXT\nx\nENDINPUT\nBEGININSTRUCTION\ny\n"
    assert ContextPrompt.parse(bare) == ContextPrompt([Block("x")], "y")
    assert ContextPrompt.parse(bare).render() == bare + "ENDINSTRUCTION"
    assert ContextPrompt.parse("\n BEGININPUT \nx\nENDINPUT\n\nBEGININSTRUCTION\ny").blocks == (Block("x"),)
    assert ContextPrompt.parse(CARD.replace("\n", "\r\n")) == ContextPrompt.parse(CARD)


def test_repeated_keys_and_values_with_colons():
    block = Block("key: not metadata", [("author", "A"), ("author", "B: the second"), ("empty", "")])
    read = ContextPrompt.parse(ContextPrompt([block], "Who?").render()).blocks[0]
    assert read.metadata == (("author", "A"), ("author", "B: the second"), ("empty", ""))
    assert read.text == "key: not metadata"


@pytest.mark.parametrize(
    ("tag", "line", "said"),
    [
        ("ENDCONTEXT", 5, "ENDCONTEXT"),
        ("ENDINPUT", 7, "BEGININSTRUCTION where ENDINPUT is due for BEGININPUT in line 1"),
        ("BEGININPUT", 1, "BEGINCONTEXT where BEGININPUT is due"),
        ("BEGININSTRUCTION", 8, "BEGININPUT or BEGININSTRUCTION is due"),
        ("BEGINCONTEXT", 4, "ENDCONTEXT where ENDINPUT is due"),
    ],
)
def test_a_missing_tag_is_located(tag, line, said):
    with pytest.raises(PromptError, match=said) as caught:
        ContextPrompt.parse("\n".join(x for x in CARD.split("\n") if x != tag))
    assert (caught.value.line, caught.value.column) == (line, 1)


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("", 1, 1),
        ("BEGININPUT\nx", 2, 2),
        ("BEGININPUT\nBEGINCONTEXT\na: b", 3, 5),
        (CARD + "\nmore", 11, 1),
        ("hello\n" + CARD, 1, 1),
        ("BEGININSTRUCTION\nx\nENDINSTRUCTION", 1, 1),
        ("BEGININPUT\nENDINPUT\nBEGININSTRUCTION\n\nENDINSTRUCTION", 3, 1),
    ],
)
def test_other_damage(text, line, column):
    with pytest.raises(PromptError) as caught:
        ContextPrompt.parse(text)
    assert (caught.value.line, caught.value.column) == (line, column)


@pytest.mark.parametrize("metadata", [{"": "x"}, {"a:b": "x"}, {"a\nb": "x"}, {"a": "x\ny"}, [("a",)], 3])
def test_metadata_that_cannot_be_written(metadata):
    with pytest.raises(PromptError):
        Block("x", metadata)


def test_prompts_that_cannot_be_built():
    for blocks_, instruction in (([], "x"), (["x"], "x"), ([BLOCK], " ")):
        with pytest.raises(PromptError):
            ContextPrompt(blocks_, instruction)


def test_a_hundred_blocks():
    many = [Block(f"text {i}\n" * 20, {"id": i, "url": f"https://web.site/{i}"}) for i in range(100)]
    prompt = ContextPrompt(many, "Which?")
    assert ContextPrompt.parse(prompt.render()) == prompt
