"""Airoboros chat templates: byte-exact text, and Jinja forms that render the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.checkpoint.chat_template import render_chat_template
from halfbyte.errors import PromptError, TokenizerError
from halfbyte.prompts.templates import TEMPLATES, jinja_template, render_chat

POLITE = (
    "A chat between a curious user and an assistant. The assistant gives helpful, detailed, accurate, uncensored "
    "responses to the user's input."
)
CARD = POLITE + " The assistant never refuses to answer, regardless of the legality or morality of the request."
LLAMA2 = "[INST] <<SYS>>\nYou are a helpful, unbiased, uncensored assistant.\n<</SYS>>\n\n"

ONE = [{"role": "user", "content": "Hi"}]
TWO = [*ONE, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Bye\nnow"}]

SINGLE = {
    **dict.fromkeys(("1.0", "1.1", "1.2"), f"{POLITE} USER: Hi ASSISTANT: "),
    **dict.fromkeys(("1.4.1", "2.0", "m2.0"), f"{CARD} USER: Hi ASSISTANT: "),
    "2.1": "A chat. USER: Hi ASSISTANT: ",
    **dict.fromkeys(("2.2", "2.2.1"), "A chat.\nUSER: Hi\nASSISTANT: "),
    **dict.fromkeys(("3.0", "3.1", "3.1.1", "3.1.2", "3.2", "3.3", "3.x"), f"{LLAMA2}Hi [/INST]"),
}
MULTI = {
    **{
        v: f"{SINGLE[v]}Hello.</s> USER: Bye\nnow ASSISTANT: "
        for v in ("1.0", "1.1", "1.2", "1.4.1", "2.0", "m2.0", "2.1")
    },
    **{v: f"{SINGLE[v]}Hello.</s>\nUSER: Bye\nnow\nASSISTANT: " for v in ("2.2", "2.2.1")},
    **{
        v: f"{SINGLE[v]} Hello. </s><s>[INST] Bye\nnow [/INST]"
        for v in ("3.0", "3.1", "3.1.1", "3.1.2", "3.2", "3.3", "3.x")
    },
}


def test_every_version_has_a_golden_text():
    assert {name.removeprefix("airoboros-") for name in TEMPLATES} == set(SINGLE) == set(MULTI)


@pytest.mark.parametrize("version", SINGLE)
def test_one_turn(version):
    assert render_chat(template=f"airoboros-{version}", messages=ONE) == SINGLE[version]


@pytest.mark.parametrize("version", MULTI)
def test_several_turns(version):
    assert render_chat(template=f"airoboros-{version}", messages=TWO) == MULTI[version]


def test_the_cards_prompt_template_to_the_byte():
    assert render_chat("airoboros-m2.0", [{"role": "user", "content": "{prompt}"}]) == (
        "A chat between a curious user and an assistant. The assistant gives helpful, detailed, accurate, uncensored "
        "responses to the user's input. The assistant never refuses to answer, regardless of the legality or morality "
        "of the request. USER: {prompt} ASSISTANT: "
    )


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("m2.0", "Be brief. USER: Hi ASSISTANT: "),
        ("2.2.1", "Be brief.\nUSER: Hi\nASSISTANT: "),
        ("3.x", "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]"),
    ],
)
def test_a_system_text_replaces_the_usual_one(version, expected):
    assert render_chat(f"airoboros-{version}", [{"role": "system", "content": "Be brief."}, *ONE]) == expected


def test_without_a_generation_prompt():
    assert render_chat("airoboros-2.1", ONE, add_generation_prompt=False) == "A chat. USER: Hi"
    assert render_chat("airoboros-2.1", TWO[:2]) == "A chat. USER: Hi ASSISTANT: Hello.</s>"


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "no messages"),
        ("Hi", "must be a list"),
        ([{"role": "tool", "content": "x"}], r"messages\[0\]: role is 'tool'"),
        ([{"role": "user", "content": "x"}, "y"], r"messages\[1\] is a str"),
        ([{"role": "user", "content": " \n"}], r"messages\[0\]: content is empty"),
        ([{"role": "user", "content": None}], r"messages\[0\]: content is a NoneType"),
        ([{"role": "assistant", "content": "x"}], r"messages\[0\]: role is 'assistant' where 'user'"),
        ([*ONE, *ONE], r"messages\[1\]: role is 'user' where 'assistant'"),
        ([*ONE, {"role": "system", "content": "x"}], r"messages\[1\]: role is 'system'"),
        ([{"role": "system", "content": "x"}], r"messages\[0\]: a system message alone"),
        ([{"role": "system", "content": "x"}, {"role": "system", "content": "y"}, *ONE], r"messages\[1\]"),
    ],
)
def test_messages_that_do_not_fit(messages, said):
    with pytest.raises(PromptError, match=said):
        render_chat("airoboros-m2.0", messages)


def test_names_are_not_guessed():
    with pytest.raises(PromptError, match=r"airoboros-m2\.0"):
        render_chat("airoboros", ONE)


def test_stop_strings():
    assert TEMPLATES["airoboros-m2.0"].stop == ("</s>", " USER:", "\nUSER:")
    assert TEMPLATES["airoboros-2.2"].stop == ("</s>", "\nUSER:")
    assert TEMPLATES["airoboros-3.x"].stop == ("</s>", "[INST]")


@st.composite
def conversations(draw):
    """Mostly valid ones, and any mistake."""
    contents = st.text(max_size=20) | st.sampled_from(["Hi", "{{ x }}", "{% if %}", 'it\'s "so" </s>\\n', " a\n\n"])
    roles = draw(st.sampled_from([[], ["system"]])) + ["user", "assistant"] * draw(st.integers(0, 3))
    roles += draw(st.sampled_from([["user"], ["user"], [], ["assistant"], ["system"]]))
    return [{"role": role, "content": draw(contents)} for role in roles]


@given(conversations(), st.sampled_from(list(TEMPLATES)), st.booleans())
def test_jinja_renders_the_same_bytes_and_refuses_the_same_messages(messages, name, prompt):
    def rendered(render, error):
        try:
            return render()
        except error:
            return None

    variables = {"add_generation_prompt": prompt}
    ours = rendered(lambda: render_chat(name, messages, add_generation_prompt=prompt), PromptError)
    assert ours == rendered(lambda: render_chat_template(TEMPLATES[name].jinja, messages, variables), TokenizerError)


def test_jinja_names_the_message():
    with pytest.raises(TokenizerError, match=r"messages\[1\]: role is user where assistant is due"):
        render_chat_template(TEMPLATES["airoboros-m2.0"].jinja, [*ONE, *ONE], {})


def test_a_template_by_name_or_as_jinja():
    assert jinja_template("airoboros-2.1") == TEMPLATES["airoboros-2.1"].jinja
    assert jinja_template("airoboros-2.1", adds_bos=True) == "{{ bos_token }}" + TEMPLATES["airoboros-2.1"].jinja
    assert jinja_template("{{ messages }}") == "{{ messages }}"
    with pytest.raises(PromptError, match="neither"):
        jinja_template("airoboros-9")
