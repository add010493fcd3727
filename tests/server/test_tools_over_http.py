"""Tools: what is called always fits, streamed or not, whatever the model would rather have said."""

from __future__ import annotations

import json

import openai
import pytest

MODEL = "smol"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city now",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["c", "f"]}},
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add two numbers",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                "required": ["a", "b"],
            },
        },
    },
]
WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def check(call):
    arguments = json.loads(call.function.arguments)
    if call.function.name == "add":
        assert {k: type(v) for k, v in arguments.items()} == {"a": int, "b": int}
    else:
        assert call.function.name == "get_weather"
        assert isinstance(arguments["city"], str)
        assert arguments.get("unit", "c") in ("c", "f")


@pytest.mark.parametrize(
    "choice", ["auto", "required", {"type": "function", "function": {"name": "add"}}], ids=["auto", "required", "named"]
)
@pytest.mark.parametrize("parallel", [None, True])
def test_calls_fit_and_streams_say_the_same(client, choice, parallel):
    asked = {"model": MODEL, "messages": WEATHER, "tools": TOOLS, "tool_choice": choice, "temperature": 0}
    asked |= {"max_tokens": 150} | ({} if parallel is None else {"parallel_tool_calls": parallel})
    whole = client.chat.completions.create(**asked).choices[0]
    if choice != "auto":
        assert whole.message.tool_calls
        assert whole.message.content is None
    calls = whole.message.tool_calls or []
    for call in calls:
        if whole.finish_reason != "length":
            check(call)
    if whole.finish_reason != "length":
        assert whole.finish_reason == ("tool_calls" if calls and isinstance(choice, str) else "stop")

    content, found, finish = "", {}, None
    for chunk in client.chat.completions.create(**asked, stream=True):
        (one,) = chunk.choices
        content += one.delta.content or ""
        finish = one.finish_reason or finish
        for piece in one.delta.tool_calls or []:
            if piece.id:
                found[piece.index] = [piece.function.name, piece.function.arguments]
            else:
                found[piece.index][1] += piece.function.arguments
    assert content == (whole.message.content or "")
    assert list(found.values()) == [[call.function.name, call.function.arguments] for call in calls]
    assert finish == whole.finish_reason


def test_without_choice_there_are_only_words(client):
    asked = {"model": MODEL, "messages": WEATHER, "temperature": 0, "max_tokens": 12}
    plain = client.chat.completions.create(**asked).choices[0].message
    with_tools = client.chat.completions.create(**asked, tools=TOOLS, tool_choice="none").choices[0].message
    assert with_tools == plain
    assert plain.tool_calls is None


def test_a_function_without_parameters_gets_none(client):
    now = {"type": "function", "function": {"name": "now", "description": "The time now"}}
    asked = {"model": MODEL, "messages": WEATHER, "tools": [now], "tool_choice": "required", "temperature": 0}
    (call,) = client.chat.completions.create(**asked, parallel_tool_calls=False).choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {}


def test_a_result_is_taken_up_in_words(client):
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    messages = [
        *WEATHER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "It is 21 degrees and sunny in Paris."},
    ]
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS, temperature=0, max_tokens=40)
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].message.content
    assert answer.usage.prompt_tokens > 60  # the result is in the prompt, as a block of closed context


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": None, "tool_choice": "required"}, None),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [*TOOLS, TOOLS[0]]}, None),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]}, None),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}]}, "messages"),
        ({"messages": [{"role": "tool", "tool_call_id": "a", "content": "b"}]}, "messages"),
    ],
)
def test_what_cannot_be_asked_is_refused(client, change, param):
    body = {"model": MODEL, "messages": WEATHER, "tools": TOOLS} | change
    with pytest.raises(openai.BadRequestError) as error:
        client.post("/chat/completions", body=body, cast_to=object)
    assert error.value.param == param, error.value.body
