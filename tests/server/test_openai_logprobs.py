"""Log-probabilities: those of the engine itself, in both of OpenAI's shapes, and as lm-eval reads them."""

from __future__ import annotations

import asyncio
from operator import itemgetter

import openai
import pytest

from halfbyte import SamplingParams
from halfbyte.engine.async_engine import AsyncEngine

MODEL = "smol"
TEXT = "The capital of France is Paris. Das Stück kostet 3 € 𓂀."


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def ids(server):
    return server.models.first.tokenizer.encode(TEXT)


@pytest.fixture(scope="module")
def expected(server, ids):
    """What the engine says of the prompt's tokens: asked directly, on the server's own loop."""
    params = SamplingParams(temperature=0, max_tokens=4, logprobs=2, prompt_logprobs=2)
    loop = server.engine._ready.get_loop()
    work = server.engine.complete({"prompt_token_ids": ids}, params)
    assert isinstance(server.engine, AsyncEngine)
    return asyncio.run_coroutine_threadsafe(work, loop).result(30)


def test_echo_gives_the_prompts_own(client, ids, expected):
    (choice,) = client.completions.create(
        model=MODEL, prompt=ids, max_tokens=4, logprobs=2, echo=True, temperature=0
    ).choices
    found = choice.logprobs
    assert len(found.tokens) == len(ids) + 4
    assert found.token_logprobs[0] is None
    assert found.top_logprobs[0] is None
    steps = [*expected.prompt_logprobs[1:], *expected.outputs[0].logprobs]
    tokens = [*ids[1:], *expected.outputs[0].token_ids]
    # another batch shape may round otherwise
    assert found.token_logprobs[1:] == pytest.approx(
        [s[t].logprob for s, t in zip(steps, tokens, strict=True)], abs=0.05
    )
    assert choice.text == TEXT + expected.outputs[0].text


def test_tokens_and_offsets_spell_the_text(client, ids):
    (choice,) = client.completions.create(model=MODEL, prompt=ids, max_tokens=1, logprobs=0, echo=True).choices
    found = choice.logprobs
    assert len(set(found.text_offset)) < len(found.text_offset)  # a character of several tokens
    ends = [*found.text_offset[1:], None]
    for token, begin, end in zip(found.tokens, found.text_offset, ends, strict=True):
        if not token.startswith("bytes:"):
            assert choice.text[begin:end] == token
    assert any(token.startswith("bytes:\\x") for token in found.tokens)


def test_nothing_is_written_with_max_tokens_0(client, ids):
    asked = {"model": MODEL, "prompt": [ids, ids[:5]], "max_tokens": 0, "logprobs": 1, "echo": True}
    whole = client.completions.create(**asked)
    assert whole.choices[0].text == TEXT
    assert [len(choice.logprobs.tokens) for choice in whole.choices] == [len(ids), 5]
    assert whole.usage.completion_tokens == 0
    streamed = list(client.completions.create(**asked, stream=True))
    assert {c.choices[0].index: c.choices[0].text for c in streamed} == {0: TEXT, 1: whole.choices[1].text}


def test_a_stream_has_the_same(client, ids):
    asked = {"model": MODEL, "prompt": ids, "max_tokens": 6, "logprobs": 2, "echo": True, "temperature": 0}
    whole = client.completions.create(**asked).choices[0]
    tokens, offsets, own, text = [], [], [], ""
    for chunk in client.completions.create(**asked, stream=True):
        (one,) = chunk.choices
        text += one.text
        tokens += one.logprobs.tokens
        offsets += one.logprobs.text_offset
        own += one.logprobs.token_logprobs
    assert (text, tokens, offsets) == (whole.text, whole.logprobs.tokens, whole.logprobs.text_offset)
    assert own[1:] == pytest.approx(whole.logprobs.token_logprobs[1:], abs=0.05)


def test_as_lm_eval_reads_them(client, server):
    """Its arithmetic: the log-likelihood of a continuation, and whether each of its tokens was the likeliest."""
    encode = server.models.first.tokenizer.encode
    context = encode("The capital of France is")
    rows = [context + encode(" Paris"), context + encode(" Rome")]
    answer = client.completions.create(
        model=MODEL, prompt=rows, max_tokens=1, logprobs=1, echo=True, temperature=0, seed=1234
    )
    found = []
    for choice in sorted(answer.choices, key=lambda choice: choice.index):
        logprobs = choice.logprobs
        begin = len(context)
        total = sum(logprobs.token_logprobs[begin:-1])
        greedy = all(
            token == max(top.items(), key=itemgetter(1))[0]
            for token, top in zip(logprobs.tokens[begin:-1], logprobs.top_logprobs[begin:-1], strict=True)
        )
        found.append((total, greedy))
    assert found[0][1]
    assert not found[1][1]
    assert found[1][0] < found[0][0] < 0


def test_chats(client):
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "What is the capital of France?"}]}
    asked |= {"temperature": 0, "max_tokens": 5, "logprobs": True, "top_logprobs": 3}
    (choice,) = client.chat.completions.create(**asked).choices
    content = choice.logprobs.content
    assert b"".join(bytes(step.bytes) for step in content).decode() == choice.message.content
    for step in content:
        assert len(step.top_logprobs) == 3
        assert step.top_logprobs[0].token == step.token  # at temperature 0
        assert step.logprob == step.top_logprobs[0].logprob >= step.top_logprobs[1].logprob
    streamed = [
        step
        for chunk in client.chat.completions.create(**asked, stream=True)
        if chunk.choices[0].logprobs
        for step in chunk.choices[0].logprobs.content
    ]
    assert [step.token for step in streamed] == [step.token for step in content]
    without = client.chat.completions.create(**asked | {"top_logprobs": None, "logprobs": True}).choices[0].logprobs
    assert [step.top_logprobs for step in without.content] == [[]] * 5
