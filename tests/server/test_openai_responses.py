"""The Responses API through OpenAI's client: answers, streams, what is kept, what is cancelled."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest

from halfbyte.server.auth import Key
from halfbyte.server.openai.response_store import ResponseStore, Stored
from halfbyte.server.problems import ServerProblem

MODEL = "smol"
FRANCE = "What is the capital of France?"
TOOL = {
    "type": "function",
    "name": "add",
    "description": "Add two numbers",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
}


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def chat_answer(client) -> str:
    """What the chat route says to the same question: these routes share their engine, so the text is the same."""
    messages = [{"role": "user", "content": FRANCE}]
    chat = client.chat.completions.create(model=MODEL, messages=messages, temperature=0, max_tokens=20)
    return chat.choices[0].message.content


def test_an_answer_is_kept_and_gone_on_from(client):
    first = client.responses.create(model=MODEL, input=FRANCE, temperature=0, max_output_tokens=20, metadata={"a": "b"})
    assert (first.status, first.output_text) == ("completed", chat_answer(client))
    assert "Paris" in first.output_text
    assert (first.metadata, first.usage.output_tokens_details.reasoning_tokens) == ({"a": "b"}, 0)
    assert client.responses.retrieve(first.id) == first
    second = client.responses.create(
        model=MODEL, input="And of Italy?", previous_response_id=first.id, temperature=0, max_output_tokens=20
    )
    assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens
    by_hand = client.responses.create(
        model=MODEL,
        input=[{"role": "user", "content": FRANCE}, first.output[0].model_dump(), {"role": "user", "content": "And of Italy?"}],
        temperature=0, max_output_tokens=20, store=False,
    )  # fmt: skip
    assert by_hand.output_text == second.output_text
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(by_hand.id)
    (item,) = client.responses.input_items.list(second.id).data
    assert item.content == "And of Italy?" or item.content[0].text == "And of Italy?"
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError) as error:
        client.responses.create(model=MODEL, input="a", previous_response_id=first.id)
    assert error.value.param == "previous_response_id"


def test_a_stream_tells_the_same_in_typed_events(client, server):
    async def run():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as asking:
            asked = {"model": MODEL, "input": FRANCE, "temperature": 0, "max_output_tokens": 20}
            return [event async for event in await asking.responses.create(**asked, stream=True)]

    events = asyncio.run(run())
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events[4:-4])
    assert text == events[-4].text == events[-1].response.output_text == chat_answer(client)
    assert len({event.item_id for event in events[3:-2]}) == 1


def test_clients_own_stream_helper_and_formats(client):
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
    form = {"format": {"type": "json_schema", "name": "city", "schema": schema | {"additionalProperties": False}}}
    with client.responses.stream(model=MODEL, input=FRANCE, text=form, temperature=0) as stream:
        stream.until_done()
        found = stream.get_final_response()
    assert json.loads(found.output_text)["city"] in ("Paris", "Rome")


def test_log_probabilities(client):
    answer = client.responses.create(
        model=MODEL, input=FRANCE, temperature=0, max_output_tokens=4, top_logprobs=2,
        include=["message.output_text.logprobs"],
    )  # fmt: skip
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    logprobs = answer.output[0].content[0].logprobs
    assert "".join(step.token for step in logprobs) == answer.output_text
    assert [len(step.top_logprobs) for step in logprobs] == [2] * 4


@pytest.mark.parametrize("stream", [False, True])
def test_functions(client, stream):
    asked = {"model": MODEL, "input": "Add 2 and 3.", "tools": [TOOL], "tool_choice": "required", "temperature": 0}
    asked |= {"parallel_tool_calls": False, "max_output_tokens": 150}
    if stream:
        events = list(client.responses.create(**asked, stream=True))
        answer = events[-1].response
        deltas = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
        assert deltas == answer.output[0].arguments
    else:
        answer = client.responses.create(**asked)
    (call,) = answer.output
    assert (call.type, call.name, call.status) == ("function_call", "add", "completed")
    assert set(json.loads(call.arguments)) == {"a", "b"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "5"}
    after = client.responses.create(
        model=MODEL, input=[result], previous_response_id=answer.id, tools=[TOOL], max_output_tokens=5
    )
    assert after.output[0].type == "message"


def test_background_responses_end_by_themselves_or_are_cancelled(client, server):
    asked = {"model": MODEL, "input": "Tell me a long story.", "background": True}
    short = client.responses.create(**asked, max_output_tokens=3)
    assert short.status in ("queued", "in_progress")
    while client.responses.retrieve(short.id).status in ("queued", "in_progress"):
        pass
    assert client.responses.retrieve(short.id).status == "incomplete"
    assert client.responses.cancel(short.id).status == "incomplete"
    long = client.responses.create(**asked, extra_body={"ignore_eos": True})
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model=MODEL, input="a", previous_response_id=long.id)
    assert client.responses.cancel(long.id).status == "cancelled"
    server.wait_until_idle(3)
    plain = client.responses.create(model=MODEL, input="a", max_output_tokens=1)
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(plain.id)
    failed = client.responses.create(model=MODEL, input="a " * 3000, background=True)
    while client.responses.retrieve(failed.id).status in ("queued", "in_progress"):
        pass
    failed = client.responses.retrieve(failed.id)
    assert (failed.status, "context" in failed.error.message) == ("failed", True)


def test_leaving_a_stream_cancels_it(client, server):
    stream = client.responses.create(
        model=MODEL, input="Tell me a story.", stream=True, extra_body={"ignore_eos": True}
    )
    response_id = next(iter(stream)).response.id
    stream.close()
    server.wait_until_idle(3)
    assert client.responses.retrieve(response_id).status == "cancelled"


@pytest.mark.parametrize(
    "extra",
    [
        {"input": []},
        {"input": [{"role": "king", "content": "a"}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://a"}]}]},
        {"input": [{"type": "item_reference", "id": "a"}]},
        {"input": [{"type": "function_call_output", "call_id": "a", "output": "b"}]},
        {"input": [{"type": "function_call", "call_id": "a", "name": "f", "arguments": "no"}]},
        {"background": True, "stream": True},
        {"background": True, "store": False},
        {"conversation": "a"},
        {"tools": [{"type": "web_search"}]},
        {"tool_choice": "required"},
        {"truncation": "auto"},
        {"text": {"format": {"type": "json_schema"}}},
        {"input": "a " * 3000, "stream": True},
    ],
)
def test_what_cannot_be_asked_is_refused(client, extra):
    with pytest.raises(openai.BadRequestError):
        client.post("/responses", body={"model": MODEL, "input": "a"} | extra, cast_to=object)


def stored(name, size=1, owner=None):
    return Stored({"id": name}, [], [], size, owner)


def test_the_store_is_bounded_and_keeps_keys_apart():
    store = ResponseStore(3, most_bytes=100)
    for name in "abcd":
        store.add(stored(name))
    with pytest.raises(ServerProblem):
        store.get("a", None)
    store.add(stored("e", size=98))
    assert len(store) == 3
    store.add(stored("f", size=50))
    assert len(store) == 1
    one, other = Key("1", "key"), Key("2", "key")
    store.add(stored("g", owner=one))
    assert store.get("g", Key("1", "key")).response == {"id": "g"}
    for owner in (other, None):
        with pytest.raises(ServerProblem):
            store.delete("g", owner)
