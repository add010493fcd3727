"""Models behind plans: in this process, and behind an endpoint."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import aclosing
from types import SimpleNamespace

import pytest
from rewoo_pages import Pages, serving

from halfbyte.errors import RequestError, ToolError
from halfbyte.rewoo.completion import Completion, Endpoint, LocalModel

pytest.importorskip("httpx")


class Chat(Pages):
    """An OpenAI-compatible server that answers with the question."""

    owner = "halfbyte"

    def do_GET(self):  # noqa: N802
        self.answer(json.dumps({"data": [{"id": "first", "owned_by": self.owner}]}).encode(), "application/json")

    def do_POST(self):  # noqa: N802  http.server calls it so
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers.get("Authorization"), request))
        question = request["messages"][0]["content"]
        if question == "fail":
            return self.answer(b"overloaded", status=503)
        if question == "odd":
            return self.answer(b'{"choices": []}', "application/json")
        if request.get("stream"):
            pieces = [{"choices": [{"delta": {"content": c}}]} for c in question] + [{"choices": []}]
            body = ": hello\n\n" + "".join(f"data: {json.dumps(p)}\n\n" for p in pieces) + "data: [DONE]\n\n"
            return self.answer(body.encode(), "text/event-stream")
        message = {
            "choices": [{"message": {"content": question}}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 2},
        }
        return self.answer(json.dumps(message).encode(), "application/json")


@pytest.fixture(scope="module")
def server():
    with serving(handler=Chat) as running:
        yield running


def endpoint(server, **options):
    return Endpoint(f"http://{server.where}/v1/", "m", **options)


async def streamed(model, prompt, **options):
    return [piece async for piece in model.stream(prompt, **options)]


def test_an_endpoint(server):
    answer = asyncio.run(endpoint(server, api_key="k").complete("Why?", max_tokens=7, grammar="g"))
    assert answer == Completion("Why?", 5, 2)
    path, key, request = server.asked[-1]
    assert (path, key, request["max_tokens"], request["model"]) == ("/v1/chat/completions", "Bearer k", 7, "m")
    assert "grammar" not in request
    asyncio.run(endpoint(server, grammar_field="grammar").complete("Why?", grammar="g"))
    assert server.asked[-1][2]["grammar"] == "g"
    assert asyncio.run(streamed(endpoint(server), "Why")) == ["W", "h", "y"]


@pytest.mark.parametrize("owner", ["halfbyte", "another"])
def test_an_endpoint_that_is_asked_for_its_model(server, monkeypatch, owner):
    monkeypatch.setattr(Chat, "owner", owner)
    for ask in (lambda m: m.complete("Why?", grammar="g"), lambda m: streamed(m, "Why?", grammar="g")):
        asyncio.run(ask(Endpoint(f"http://{server.where}/v1")))
        request = server.asked[-1][2]
        assert request["model"] == "first"
        assert request.get("guided_grammar") == ("g" if owner == "halfbyte" else None)


def test_endpoints_that_fail(server):
    for ask in (lambda m, p: m.complete(p), streamed):
        with pytest.raises(ToolError, match="503") as e:
            asyncio.run(ask(endpoint(server), "fail"))
        assert e.value.retryable
        with pytest.raises(ToolError):
            asyncio.run(ask(Endpoint("http://127.0.0.1:1/v1"), "x"))
    with pytest.raises(ToolError, match="not a chat completion"):
        asyncio.run(endpoint(server).complete("odd"))


class FakeLLM:
    """Writes a letter every few milliseconds."""

    def __init__(self, error=None):
        self.error, self.working, self.most, self.written = error, 0, 0, 0
        self.threads = set()

    def chat_prompt(self, messages):
        return SimpleNamespace(token_ids=list(messages[0]["content"].encode()))

    def get_tokenizer(self):
        return SimpleNamespace(encode=lambda text: list(text.encode()))

    def stream(self, prompt, params):
        self.threads.add(threading.get_ident())
        self.working += 1
        self.most = max(self.most, self.working)
        try:
            if self.error:
                raise self.error
            for _ in range(params.max_tokens):
                time.sleep(0.002)
                self.written += 1
                yield SimpleNamespace(text="x")
        finally:
            self.working -= 1


def test_a_model_of_this_process_works_off_the_loop():
    llm = FakeLLM()

    async def main():
        model = LocalModel(llm)
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.005)
                ticks += 1

        ticking = asyncio.create_task(tick())
        answers = await asyncio.gather(*(model.complete("abc", max_tokens=10) for _ in range(3)))
        ticking.cancel()
        return answers, ticks

    answers, ticks = asyncio.run(main())
    assert answers == [Completion("x" * 10, 3, 10)] * 3
    assert llm.most == 1
    assert ticks > 1
    assert threading.get_ident() not in llm.threads


def test_cancelling_and_closing_stop_the_model():
    llm = FakeLLM()

    async def cancelled():
        task = asyncio.create_task(LocalModel(llm).complete("abc", max_tokens=1_000_000))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert llm.working == 0

    async def closed():
        async with aclosing(LocalModel(llm).stream("abc", max_tokens=1_000_000)) as pieces:
            async for _ in pieces:
                break
        assert llm.working == 0

    start = time.perf_counter()
    asyncio.run(cancelled())
    asyncio.run(closed())
    assert time.perf_counter() - start < 30


def test_errors_of_the_model():
    with pytest.raises(ToolError, match="too long"):
        asyncio.run(LocalModel(FakeLLM(RequestError("too long"))).complete("abc"))
    with pytest.raises(ZeroDivisionError):
        asyncio.run(LocalModel(FakeLLM(ZeroDivisionError())).complete("abc"))


def test_a_template_of_ones_own():
    model = LocalModel(FakeLLM(), template=lambda text: f"USER: {text} ASSISTANT: ")
    assert asyncio.run(model.complete("ab", max_tokens=1)).prompt_tokens == len("USER: ab ASSISTANT: ")
