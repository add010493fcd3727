"""Digits of numbers within bounds: nothing outside of them, everything inside."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.errors import PromptError
from halfbyte.prompts.functions import FunctionPrompt
from halfbyte.prompts.number_ranges import number_forms


def pattern(kind, schema):
    return re.compile("|".join("".join(form).replace(".", r"\.") for form in number_forms(kind, schema)))


@given(st.integers(-2000, 2000), st.integers(0, 300), st.integers(-2500, 2500))
def test_integers(low, width, tried):
    found = pattern("integer", {"minimum": low, "maximum": low + width})
    assert bool(found.fullmatch(str(tried))) == (low <= tried <= low + width)
    assert found.fullmatch(str(low))
    assert found.fullmatch(str(low + width))
    assert not found.fullmatch("00")


@settings(deadline=None)
@given(
    st.decimals(-50, 50, places=2),
    st.decimals("0.02", 30, places=2),
    st.decimals(-90, 90, places=3),
    st.sampled_from(["", "exclusive"]),
)
def test_numbers(low, width, tried, how):
    high = low + width
    names = ("exclusiveMinimum", "exclusiveMaximum") if how else ("minimum", "maximum")
    found = pattern("number", dict(zip(names, (float(low), float(high)), strict=True)))
    inside = low < tried < high if how else low <= tried <= high
    places = 2 + max(len(str(float(bound)).partition(".")[2]) for bound in (low, high))
    if found.fullmatch(f"{tried:.{places}f}"):
        assert inside
    elif tried:
        assert not inside
    for text in ("-0.0000", "1.", ".5", "01.0000", "--1"):
        assert not found.fullmatch(text)


def test_one_bound_and_no_number():
    assert pattern("integer", {"exclusiveMinimum": 0}).fullmatch("1" + "0" * 15)
    assert not pattern("integer", {"exclusiveMinimum": 0}).fullmatch("0")
    assert pattern("number", {"maximum": -0.5}).fullmatch("-12.250")
    with pytest.raises(PromptError, match="no integer with minimum 3, maximum 2"):
        number_forms("integer", {"minimum": 3, "maximum": 2})


def test_no_call_out_of_bounds_can_be_written():
    guidance = pytest.importorskip("llguidance")
    bounds = {"n": {"type": "integer", "minimum": 7, "maximum": 23}, "x": {"type": "number", "exclusiveMinimum": 0}}
    prompt = FunctionPrompt([{"name": "f", "parameters": {"properties": bounds, "required": ["n", "x"]}}])
    from llguidance.gbnf_to_lark import gbnf_to_lark

    class Bytes:
        """A token a byte, and one that ends the text."""

        eos_token_id = 256
        bos_token_id = None
        tokens = (*(bytes([i]) for i in range(256)), b"<eos>")
        special_token_ids = (256,)

        def __call__(self, text):
            return list(text if isinstance(text, bytes) else text.encode())

    tokenizer = guidance.LLTokenizer(guidance.TokenizerWrapper(Bytes()))
    for grammar in (prompt.grammar().lark(), gbnf_to_lark(prompt.grammar().gbnf())):
        for n, x, good in ((7, "0.01", True), (23, "3", True), (24, "3", False), (6, "3", False), (7, "0", False)):
            text = prompt.write([("f", {"n": n, "x": "X"})]).replace('"X"', x)
            matcher = guidance.LLMatcher(tokenizer, guidance.LLMatcher.grammar_from_lark(grammar))
            assert not matcher.is_error(), matcher.get_error()
            data = list(text.encode())
            allowed = matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()
            assert allowed is good, (n, x)
            if good:
                assert prompt.parse(text)
            else:
                with pytest.raises(PromptError):
                    prompt.parse(text)
