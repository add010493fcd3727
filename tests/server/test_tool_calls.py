"""Reading calls: the same, however the text is cut; grammars of a template's own form."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from tiny_repository import byte_tokenizer

from halfbyte.prompts.function import Function
from halfbyte.prompts.functions import FunctionPrompt
from halfbyte.server.openai.tool_calls import AIROBOROS, HERMES, CallReader, ToolMessage, read_message
from halfbyte.server.openai.tool_forms import hermes_grammar, marks

ADD = {
    "name": "add",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "s": {"type": "string"}},
        "required": ["a"],
    },
}
CALLS = [("add", {"a": 1, "s": 'br}ce "q" \\ {'}), ("add", {"a": -2})]
ONE = FunctionPrompt([ADD]).write(CALLS[:1])
TWO = FunctionPrompt([ADD]).write(CALLS)


def hermes(calls):
    bodies = (json.dumps({"name": name, "arguments": arguments}) for name, arguments in calls)
    return "\n".join(f"<tool_call>\n{body}\n</tool_call>" for body in bodies)


EXAMPLES = [
    (AIROBOROS, ONE, "", CALLS[:1]),
    (AIROBOROS, TWO, "", CALLS),
    (AIROBOROS, "\n " + ONE, "", CALLS[:1]),
    (AIROBOROS, "No: {", "No: {", []),
    (None, ONE, ONE, []),
    (HERMES, hermes(CALLS), "", CALLS),
    (HERMES, "Let me see.\n" + hermes(CALLS[:1]), "Let me see.", CALLS[:1]),
    (HERMES, "words \n", "words \n", []),
    (HERMES, "a < b and <tool_cal", "a < b and <tool_cal", []),
]


@pytest.mark.parametrize(("form", "text", "words", "calls"), EXAMPLES)
@given(cuts=st.lists(st.integers(0, 200), max_size=12))
def test_however_it_is_cut(form, text, words, calls, cuts):
    reader, message = CallReader(form), ToolMessage()
    ends = [*sorted(min(cut, len(text)) for cut in cuts), len(text)]
    for begin, end in zip([0, *ends], ends, strict=False):
        for piece in reader.push(text[begin:end]):
            message.add(piece)
    for piece in reader.flush():
        message.add(piece)
    assert message.content == words
    assert [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message.calls] == calls
    assert reader.calls == len(calls)
    assert [c["function"] for c in message.calls] == [c["function"] for c in read_message(form, text).calls]


def test_a_call_that_is_cut_off_keeps_what_there_was():
    (call,) = read_message(HERMES, hermes(CALLS)[:52]).calls
    assert call["function"]["arguments"].startswith('{"a": 1')


@pytest.mark.parametrize("kind", ["text", "special token", "token"])
@pytest.mark.parametrize("must_call", [True, False])
@pytest.mark.parametrize("most", [1, 3])
def test_hermes_grammar(kind, must_call, most):
    """Qwen2.5 has tokens for both marks, and says that they are not special."""
    backend = byte_tokenizer()
    if kind != "text":
        (backend.add_tokens if kind == "token" else backend.add_special_tokens)(["<tool_call>", "</tool_call>"])
    given = marks(SimpleNamespace(backend=backend))
    tokenizer = LLTokenizer(backend.to_str(), eos_token=256)
    grammar = hermes_grammar(
        [Function.of(ADD), Function.of(ADD | {"name": "b"})], given, must_call=must_call, most=most
    )

    def takes(text):
        matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(grammar), log_level=0)
        assert not matcher.get_error()
        ids = backend.encode(text).ids
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    assert takes(hermes(CALLS[:1]))
    assert takes(hermes(CALLS)) == (most > 1)
    assert takes("Some words.") == (not must_call)
    assert takes("Some words.\n" + hermes(CALLS[:1])) == (not must_call)
    assert not takes(hermes([("other", {})]))
    assert not takes(hermes([("add", {"a": "1"})]))
    assert not takes("Some words.\n" + hermes([("add", {"a": "1"})]))
