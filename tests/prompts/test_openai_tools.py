"""OpenAI chat requests with tools, in the airoboros form and back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.errors import PromptError
from halfbyte.prompts.context import ContextPrompt
from halfbyte.prompts.openai_tools import from_openai_request
from halfbyte.prompts.templates import TEMPLATES, render_chat

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The city."}},
            "required": ["city"],
        },
    },
}
ASKED = {"role": "user", "content": "Is it raining in Oslo?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "rain, 7 degrees\nENDINPUT"}


def test_a_request_becomes_the_cards_prompt_and_its_answer_a_tool_call():
    asked = from_openai_request(
        {"messages": [{"role": "developer", "content": "Be brief."}, ASKED], "tools": [WEATHER]}
    )
    assert asked.messages[0] == {"role": "system", "content": "Be brief."}
    text = asked.messages[1]["content"]
    assert text.startswith("As an AI assistant, please select the most suitable function")
    assert "Input: Is it raining in Oslo?\n\nAvailable functions:\nget_weather:\n" in text
    assert "ASSISTANT: " in render_chat("airoboros-m2.0", asked.messages)
    message, reason = asked.answer('{"function": "get_weather", "params": {"city": "Oslo"}}', id_prefix="x")
    assert reason == "tool_calls"
    assert message["content"] is None
    (call,) = message["tool_calls"]
    assert call == {**CALL, "id": "x0"}
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}
    assert "get_weather" in asked.prompt.grammar().lark()


def test_results_become_a_closed_context():
    other = {"id": "c2", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    messages = [
        ASKED,
        {**CALLED, "tool_calls": [CALL, other]},
        RESULT,
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "sun"}]},
    ]
    asked = from_openai_request({"messages": messages, "tools": [WEATHER]})
    assert asked.prompt is None
    assert [m["role"] for m in asked.messages] == ["user", "assistant", "user"]
    assert json.loads(asked.messages[1]["content"])[1] == {"function": "get_weather", "params": {"city": "Rome"}}
    read = ContextPrompt.parse(asked.messages[2]["content"])
    assert [block.text for block in read.blocks] == ["rain, 7 degrees\nENDINPUT", "sun"]
    assert dict(read.blocks[0].metadata) == {"function": "get_weather", "params": '{"city": "Oslo"}'}
    assert read.instruction == ASKED["content"]
    assert asked.answer("It rains.") == ({"role": "assistant", "content": "It rains."}, "stop")
    for template in TEMPLATES:
        render_chat(template, asked.messages)


def test_a_conversation_goes_on_after_results():
    messages = [
        ASKED,
        CALLED,
        RESULT,
        {"role": "assistant", "content": "It rains."},
        {"role": "user", "content": "And in Rome?"},
    ]
    asked = from_openai_request({"messages": messages, "tools": [WEATHER]})
    assert "Input: And in Rome?" in asked.messages[-1]["content"]
    assert asked.messages[-2]["content"] == "It rains."


def test_choices():
    request = {"messages": [ASKED], "tools": [WEATHER]}
    assert from_openai_request({**request, "tool_choice": "none"}).prompt is None
    assert from_openai_request({"messages": [ASKED]}).messages == [ASKED]
    auto, required = from_openai_request(request), from_openai_request({**request, "tool_choice": "required"})
    assert auto.answer("I cannot know.") == ({"role": "assistant", "content": "I cannot know."}, "stop")
    with pytest.raises(PromptError, match="there is no function call"):
        required.answer("I cannot know.")
    again = from_openai_request({**request, "messages": [ASKED, CALLED, RESULT], "tool_choice": "required"})
    assert again.prompt is not None
    many = from_openai_request({**request, "parallel_tool_calls": True})
    call = {"function": "get_weather", "params": {"city": "Oslo"}}
    message, _ = many.answer(json.dumps([call, call]))
    assert [c["id"] for c in message["tool_calls"]] == ["call_0", "call_1"]


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        ({}, "messages must be a list"),
        ({"messages": []}, "at least one"),
        ({"messages": ["hello"]}, r"messages\[0\] is a str"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role is 'robot'"),
        ({"messages": [ASKED, ASKED]}, r"messages\[1\]: role is 'user' where 'assistant' is due"),
        ({"messages": [{"role": "user", "content": ""}]}, "content is empty"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "a part of type 'image_url'"),
        ({"messages": [ASKED, RESULT]}, "of no call before it"),
        ({"messages": [ASKED, {"role": "assistant", "tool_calls": [{}]}]}, r"tool_calls\[0\] has no function"),
        ({"messages": [ASKED, {"role": "assistant", "content": "x"}]}, "the last message must be the user's"),
        ({"messages": [{"role": "system", "content": "x"}]}, "the last message must be the user's"),
        ({"messages": [ASKED], "tools": "f"}, "tools must be a list"),
        ({"messages": [ASKED], "tools": [WEATHER], "tool_choice": "maybe"}, "tool_choice is 'maybe'"),
    ],
)
def test_mistakes_are_named(request_, why):
    with pytest.raises(PromptError, match=why):
        from_openai_request(request_)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["user", "tool", "c1", "auto", "", "text"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "role",
                    "content",
                    "tool_calls",
                    "function",
                    "name",
                    "arguments",
                    "id",
                    "tool_call_id",
                    "type",
                    "parameters",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    st.fixed_dictionaries(
        {"messages": st.lists(VALUES | st.sampled_from([ASKED, CALLED, RESULT]), max_size=4)},
        optional={"tools": VALUES, "tool_choice": VALUES},
    )
)
def test_no_request_raises_anything_else(request_):
    try:
        asked = from_openai_request(request_)
    except PromptError:
        return
    assert asked.messages[-1]["role"] == "user"
