"""The OpenAI face through OpenAI's own client: models, completions, chats, streams, errors."""

from __future__ import annotations

import asyncio

import httpx
import openai
import pytest

MODEL = "smol"
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_models_are_listed_and_retrieved(client, server):
    (model,) = client.models.list().data
    assert (model.id, model.object) == (MODEL, "model")
    assert client.models.retrieve(MODEL) == model
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("other")
    assert error.value.code == "model_not_found"


def test_a_chat_is_answered(client):
    answer = client.chat.completions.create(model=MODEL, messages=FRANCE, temperature=0, max_tokens=20)
    assert answer.choices[0].message.content.startswith("The capital of France is Paris")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_streamed_chat_has_the_same_text_and_usage(client):
    whole = client.chat.completions.create(model=MODEL, messages=FRANCE, temperature=0, max_tokens=20)
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=FRANCE, temperature=0, max_tokens=20, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage == whole.usage
    assert all(c.usage is None for c in chunks[:-1])


def test_the_async_client_streams_completions(server):
    async def run():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            stream = await client.completions.create(
                model=MODEL, prompt=["The capital of France is", "One, two,"], temperature=0, max_tokens=5, stream=True
            )
            texts = {0: "", 1: ""}
            async for chunk in stream:
                texts[chunk.choices[0].index] += chunk.choices[0].text
            whole = await client.completions.create(
                model=MODEL, prompt=["The capital of France is", "One, two,"], temperature=0, max_tokens=5
            )
            return texts, {choice.index: choice.text for choice in whole.choices}

    streamed, whole = asyncio.run(run())
    assert streamed == whole
    assert whole[0].startswith(" Paris")


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_ends_the_request(server, stream):
    url = f"{server.url}/v1/completions"
    body = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 1900, "ignore_eos": True, "stream": stream}
    with pytest.raises(httpx.ReadTimeout), httpx.stream("POST", url, json=body, timeout=0.3) as response:  # noqa: PT012
        for count, _ in enumerate(response.iter_lines()):
            if count > 5:
                raise httpx.ReadTimeout("seen enough")
    server.wait_until_idle(2)


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/v1/completions", b'{"prompt": "a", "temperature": NaN}', 400, None),
        ("/v1/completions", b'{"prompt": "a", "max_tokens": "5"}', 400, "max_tokens"),
        ("/v1/completions", b'{"prompt": "a", "n": 0}', 400, "n"),
        ("/v1/completions", b'{"prompt": ["a", 1]}', 400, "prompt"),
        ("/v1/completions", b'{"prompt": "a", "suffix": "b"}', 400, None),
        ("/v1/completions", b'{"prompt": [999999]}', 400, None),
        ("/v1/completions", b"{", 400, None),
        ("/v1/completions", b"[" * 100_000, 400, None),
        ("/v1/completions", b'{"prompt": "\xff"}', 400, None),
        ("/v1/completions", b'{"prompt": "\\ud800"}', 400, None),
        ("/v1/completions", b"7", 400, None),
        ("/v1/completions", b"", 400, None),
        ("/v1/completions", b'{"prompt": "a", "model": "other"}', 404, "model"),
        ("/v1/chat/completions", b'{"messages": []}', 400, "messages"),
        ("/v1/chat/completions", b'{"messages": [{"role": "king", "content": "a"}]}', 400, "messages.0.role"),
        ("/v1/chat/completions", b'{"messages": [{"role": "user"}]}', 400, "messages"),
        ("/v1/nowhere", b"{}", 404, None),
    ],
)
def test_mistakes_are_told_in_openais_shape(server, path, body, status, param):
    response = httpx.post(server.url + path, content=body, headers={"content-type": "application/json"})
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param, error


def test_another_method_is_405(server):
    response = httpx.get(server.url + "/v1/completions")
    assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")


def test_health_is_open(server):
    assert httpx.get(server.url + "/health").status_code == 200


def test_what_the_prefix_cache_had_is_told(client):
    prompt = "A text that is longer than two blocks of the cache: " + "one two three four five six seven " * 8
    first, again = (client.completions.create(model=MODEL, prompt=prompt, max_tokens=2).usage for _ in range(2))
    assert first.prompt_tokens_details.cached_tokens < again.prompt_tokens_details.cached_tokens
    assert again.prompt_tokens - 16 <= again.prompt_tokens_details.cached_tokens < again.prompt_tokens
    messages = [{"role": "user", "content": prompt}]
    options = {"include_usage": True}
    for _ in range(2):
        stream = client.chat.completions.create(
            model=MODEL, messages=messages, max_tokens=2, stream=True, stream_options=options
        )
        usage = [chunk.usage for chunk in stream][-1]
    assert usage.prompt_tokens - 16 <= usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens


def test_a_fingerprint_is_the_same_in_answers_and_chunks(client):
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    plain = client.completions.create(model=MODEL, prompt="Hi", max_tokens=1)
    assert {whole.system_fingerprint, plain.system_fingerprint, *(chunk.system_fingerprint for chunk in chunks)} == {
        whole.system_fingerprint
    }
    assert whole.system_fingerprint.startswith("fp_")
