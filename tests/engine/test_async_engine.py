"""AsyncEngine: the same answers from another process, and what happens when things end early or badly."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time

import pytest
import torch
from tiny_repository import write_repository

from halfbyte import LLM, SamplingParams
from halfbyte.engine.async_engine import AsyncEngine
from halfbyte.errors import AdapterError, EngineStoppedError, QueueFullError, RequestError, SourceError

LONG = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)
PROMPTS = ["Hello, my name is", "The president", "Das Stück für 3 €", "A"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_repository(tmp_path_factory.mktemp("model"), max_position_embeddings=4096)


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def engine(folder, runner):
    engine = AsyncEngine(str(folder), max_requests=8, max_model_len=2000)
    runner.run(engine.start())
    yield engine
    runner.run(engine.stop())


def test_it_answers_as_llm_does(engine, runner, folder):
    params = [
        SamplingParams(temperature=0),
        SamplingParams(seed=3, logprobs=2),
        SamplingParams(seed=4, n=3, max_tokens=5),
        SamplingParams(temperature=0, choice=["yes", "no"]),
        SamplingParams(temperature=0, truncate_prompt_tokens=3, prompt_logprobs=1, echo=True),
    ]
    prompts = [*PROMPTS, "cut off"]
    expected = LLM(folder, max_model_len=2000).generate(prompts, params)

    async def ask():
        return await asyncio.gather(*(engine.complete(*each) for each in zip(prompts, params, strict=True)))

    assert runner.run(ask()) == expected
    assert engine.max_model_len == 2000
    assert engine.is_ready


def test_steps_come_one_by_one_and_leaving_aborts(engine, runner):
    async def some(count):
        seen = []
        async with engine.generate("Hello", LONG) as stream:
            async for delta in stream:
                seen.append(delta)
                if len(seen) == count:
                    break
        return seen

    async def until_idle():
        await engine.complete("a", SamplingParams(max_tokens=1))  # its events tell how the engine stands
        return engine.stats.blocks_used

    seen = runner.run(some(5))
    assert [d.finish_reason for d in seen] == [None] * 5
    assert engine.unfinished == 0
    assert runner.run(until_idle()) == 0


def test_the_figures_are_right_also_when_nothing_is_left_to_do(engine, runner):
    async def abort_all():
        streams = [engine.generate("Hello", LONG) for _ in range(3)]
        for stream in streams:
            await anext(stream)
        assert engine.stats.running == 3
        assert engine.stats.blocks_used > 0
        for stream in streams:
            stream.close()
        while engine.stats.blocks_used or engine.stats.running:  # pytest-timeout ends it
            await asyncio.sleep(0.01)

    runner.run(abort_all())


def test_an_observer_sees_what_comes_when_it_comes(engine, runner):
    class Recorder:
        def __init__(self, read, params):
            self.read, self.results, self.ended = read, [], 0

        def took(self, result):
            self.results.append(result)

        def closed(self):
            self.ended += 1

    seen = []
    engine.observe = lambda read, params: seen.append(Recorder(read, params)) or seen[-1]

    async def ask():
        begin = time.monotonic()
        await engine.complete("Hello, hello, hello, hello", SamplingParams(max_tokens=3, ignore_eos=True))
        aborted = engine.generate("Hello", LONG)
        await anext(aborted)
        aborted.close()
        return begin

    begin = runner.run(ask())
    engine.observe = None
    whole, aborted = seen
    assert [bool(delta.finish_reason) for delta in whole.results] == [False, False, True]
    assert [bool(delta.begun) for delta in whole.results] == [True, False, False]
    assert begin < whole.results[0].begun.at < time.monotonic()
    assert whole.results[0].begun.cached_tokens < len(whole.read.token_ids)
    assert whole.ended == aborted.ended == 1


def test_an_abandoned_stream_is_aborted(engine, runner):
    async def abandon():
        stream = engine.generate("Hello", LONG)
        await anext(stream)

    runner.run(abandon())
    assert engine.unfinished == 0


def test_aborted_from_elsewhere(engine, runner):
    async def ask():
        stream = engine.generate("Hello", LONG, request_id="mine")
        with pytest.raises(RequestError, match="there is a request 'mine' already"):
            engine.generate("Hello", LONG, request_id="mine")
        await anext(stream)
        engine.abort("mine")
        with pytest.raises(EngineStoppedError, match="mine was aborted"):
            async for _ in stream:
                pass

    runner.run(ask())
    assert engine.unfinished == 0


def test_too_many_are_refused(engine, runner):
    async def ask():
        streams = [engine.generate("Hello", LONG) for _ in range(8)]
        with pytest.raises(QueueFullError, match="8 requests are waiting or being answered"):
            engine.generate("Hello", LONG)
        for stream in streams:
            stream.close()
        return await engine.complete("Hello", SamplingParams(max_tokens=2))

    assert runner.run(ask()).finished


def test_what_the_engine_refuses(engine, runner):
    async def ask(prompt, params):
        async for _ in engine.generate(prompt, params):
            pass

    for prompt, params, reason in [
        ("", None, "empty"),
        ("x" * 2000, None, "context is 2000"),
        ("a", SamplingParams(regex="("), "regex"),
    ]:
        with pytest.raises(RequestError, match=reason):
            runner.run(ask(prompt, params))
    with pytest.raises(AdapterError, match="enable_lora"):
        runner.run(engine.load_adapter("a", "/nowhere"))


@pytest.mark.parametrize(
    "wrong", [{"priority": "high"}, {"priority": None}, {"priority": math.nan}, {"priority": True}, {"adapter": ["a"]}]
)
def test_a_request_that_is_served_in_no_way_is_refused_and_harms_nobody(engine, runner, wrong):
    async def ask():
        other = engine.generate("Hello", LONG)
        await anext(other)
        with pytest.raises(RequestError, match=f"{next(iter(wrong))} is"):
            await engine.complete("a", **wrong)
        await anext(other)
        await other.aclose()

    restarts = engine.restarts
    runner.run(ask())
    assert engine.restarts == restarts


def test_a_prompt_is_measured_as_it_is_read(folder, runner):
    async def ask():
        async with AsyncEngine(str(folder), max_prompt_len=4) as engine:
            with pytest.raises(RequestError, match="has 11 tokens, and at most 4"):
                await engine.complete("hello there")
            return await engine.complete("hello there", SamplingParams(max_tokens=1, truncate_prompt_tokens=4))

    assert len(runner.run(ask()).prompt_token_ids) == 4


def test_embeddings(engine, runner, folder):
    (expected,) = LLM(folder).embed("Hello", pooling="mean")
    assert torch.equal(runner.run(engine.embed("Hello", "mean")), expected.embedding)
    for other in ("first", None):
        with pytest.raises(RequestError, match="pooling is"):
            runner.run(engine.embed("Hello", other))


def test_a_crash_fails_its_requests_and_the_engine_comes_back(engine, runner):
    async def crash():
        stream, waiting = engine.generate("Hello", LONG), engine.generate("A", LONG)
        await anext(stream)
        os.kill(engine.pid, signal.SIGKILL)
        for each in (stream, waiting):
            with pytest.raises(EngineStoppedError, match="was ended by SIGKILL before the request was answered"):
                async for _ in each:
                    pass
        early = engine.generate("Hello", SamplingParams(max_tokens=2, temperature=0))  # is answered when it is back
        await engine.ready()
        return [delta async for delta in early]

    assert len(runner.run(crash())) == 2
    assert engine.restarts == 1


def test_draining_lets_requests_end_and_takes_no_more(folder, runner):
    async def drain():
        async with AsyncEngine(str(folder)) as engine:
            one = asyncio.ensure_future(engine.complete("Hello", SamplingParams(max_tokens=2, ignore_eos=True)))
            await asyncio.sleep(0)
            long = engine.generate("Hello", LONG)
            await anext(long)
            draining = asyncio.ensure_future(engine.drain(0.5))
            await asyncio.sleep(0)
            with pytest.raises(EngineStoppedError, match="about to stop"):
                engine.generate("Hello")
            assert (await one).finished
            with pytest.raises(EngineStoppedError, match=r"not finished within 0.5 s"):
                async for _ in long:
                    pass
            await draining
        with pytest.raises(EngineStoppedError, match="is stopped"):
            engine.generate("Hello")

    runner.run(drain())


def test_what_cannot_be_loaded_is_said(folder, tmp_path, runner):
    with pytest.raises(SourceError):
        runner.run(AsyncEngine(str(tmp_path / "nothing")).start())
    (tmp_path / "model").mkdir()
    write_repository(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"damaged")
    engine = AsyncEngine(str(tmp_path / "model"))
    with pytest.raises(Exception, match=r"model\.safetensors"):
        runner.run(engine.start())
    with pytest.raises(EngineStoppedError, match="could not be started"):
        engine.generate("Hello")
