"""JSON schemas from strangers: a function, or a PromptError that names the keyword; never anything else."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.errors import PromptError
from halfbyte.prompts.functions import FunctionPrompt

NAMES = st.sampled_from(["a", "b", "é", "x y"])
SIMPLE = (
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.sampled_from(["", "a", "string", "#/$defs/a"])
)
TYPES = st.sampled_from(
    ["string", "integer", "number", "array", "object", "boolean", "null", ["string", "null"], "text"]
)


def keywords(schema):
    plain = (
        "enum",
        "const",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "maxLength",
        "minItems",
        "maxItems",
        "description",
        "required",
        "pattern",
        "format",
        "$ref",
    )
    nested = ("items", "additionalProperties")
    return st.fixed_dictionaries(
        {},
        optional={
            "type": TYPES | SIMPLE,
            "properties": st.dictionaries(NAMES, schema, max_size=3) | SIMPLE,
            **{name: SIMPLE | st.lists(SIMPLE, max_size=3) for name in plain},
            **dict.fromkeys(nested, schema | SIMPLE),
            **{name: st.lists(schema, max_size=2) | SIMPLE for name in ("anyOf", "oneOf", "allOf")},
        },
    )


SCHEMAS = keywords(st.deferred(lambda: st.just({}) | keywords(st.just({"type": "integer"}))))
ANSWERS = (
    '{"function": "f", "params": {"a": 3, "b": "x"}}',
    '{"function": "f", "params": {"a": {"a": [1]}, "é": null}}',
    "function: f\nparams:\n  a: 1\n  b: [x]\n",
    '{"function": "f"}',
)


@settings(max_examples=300, deadline=None)
@given(SCHEMAS, st.sampled_from(["json", "yaml"]))
def test_any_schema(schema, form):
    try:
        prompt = FunctionPrompt([{"name": "f", "parameters": {"type": "object", **schema}}], form)
    except PromptError:
        return
    prompt.render("x")
    for do in (lambda: prompt.grammar().lark(), lambda: prompt.grammar().gbnf(), prompt.json_schema):
        with contextlib.suppress(PromptError):
            do()
    for answer in ANSWERS:
        with contextlib.suppress(PromptError):
            prompt.parse(answer)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("type", "text"), ("type", 5), ("type", []), ("enum", "a"), ("enum", []), ("required", "a"), ("required", [1]),
        ("minimum", "3"), ("maximum", True), ("exclusiveMinimum", float("nan")), ("minLength", -1), ("maxItems", 1.5),
        ("pattern", 5),
    ],
)  # fmt: skip
def test_the_keyword_is_named(keyword, value):
    with pytest.raises(PromptError, match=f"^f: {keyword} must be "):
        FunctionPrompt([{"name": "f", "parameters": {"properties": {"a": {keyword: value}}}}])


def test_parts_of_all_of_are_one_schema():
    parts = [
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        {"properties": {"b": {"type": "string"}}, "required": ["b"]},
    ]
    prompt = FunctionPrompt([{"name": "f", "parameters": {"properties": {"p": {"allOf": parts}}, "required": ["p"]}}])
    (call,) = prompt.parse('{"function": "f", "params": {"p": {"a": 1, "b": "x"}}}')
    assert call.params == {"p": {"a": 1, "b": "x"}}
    with pytest.raises(PromptError, match=r"params\.p lacks 'b'"):
        prompt.parse('{"function": "f", "params": {"p": {"a": 1}}}')
    with pytest.raises(PromptError, match="two things of type"):
        FunctionPrompt(
            [{"name": "f", "parameters": {"properties": {"p": {"allOf": [{"type": "null"}, {"type": "string"}]}}}}]
        )
