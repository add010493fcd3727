"""Two processes share a network: the same answers, and a clear end when one of them dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time

import pytest
import torch
from test_adapters import ADAPTERS, write_adapter
from tiny_repository import write_repository

from halfbyte import LLM, SamplingParams
from halfbyte.engine.async_engine import AsyncEngine
from halfbyte.errors import ConfigError, EngineStoppedError

PROMPTS = ["Hello, my name is", "The president", "Das Stück für 3 €", "A"]
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=2)
PARAMS = [
    GREEDY,
    SamplingParams(temperature=0, max_tokens=8, prompt_logprobs=2),
    SamplingParams(seed=4, n=3, max_tokens=5),
    SamplingParams(temperature=0, choice=["yes", "no"]),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("shared")
    base = write_repository(home / "base")
    write_adapter(home / "all", base, 1, **ADAPTERS["all"])
    return home


@pytest.fixture(scope="module")
def alone(home):
    return LLM(home / "base", enable_lora=True, speculative_tokens=3)


@pytest.fixture(scope="module")
def shared(home):
    threads = torch.get_num_threads()
    llm = LLM(home / "base", enable_lora=True, speculative_tokens=3, tensor_parallel_size=2)
    yield llm
    llm.engine.ranks.end()
    torch.set_num_threads(threads)


def assert_alike(found, expected, tolerance=1e-3):
    """Tokens are the same up to a near tie, and so are log-probabilities of what was the same before."""
    for ours, theirs in zip(found.outputs, expected.outputs, strict=True):
        for place, (a, b) in enumerate(zip(ours.token_ids, theirs.token_ids, strict=True)):
            if a != b:
                assert abs(theirs.logprobs[place][a].logprob - theirs.logprobs[place][b].logprob) < tolerance
                break
            if theirs.logprobs:
                assert ours.logprobs[place][a].logprob == pytest.approx(
                    theirs.logprobs[place][a].logprob, abs=tolerance
                )
    for ours, theirs in zip(found.prompt_logprobs or (), expected.prompt_logprobs or (), strict=True):
        for token in theirs or ():
            assert ours[token].logprob == pytest.approx(theirs[token].logprob, abs=tolerance)


def test_the_answers_are_those_of_one_process(alone, shared):
    for found, expected in zip(shared.generate(PROMPTS, PARAMS), alone.generate(PROMPTS, PARAMS), strict=True):
        assert_alike(found, expected)
    assert shared.engine.stats.blocks_used == 0


def test_hidden_states(alone, shared):
    (found,), (expected,) = (llm.embed("Hello", pooling="mean") for llm in (shared, alone))
    assert torch.allclose(found.embedding, expected.embedding, atol=1e-4)


def test_adapters(alone, shared, home):
    for llm in (alone, shared):
        llm.load_adapter("all", home / "all")
    found, expected = (llm.generate(PROMPTS[0], GREEDY, adapter="all")[0] for llm in (shared, alone))
    assert_alike(found, expected)
    assert found.outputs[0].token_ids != alone.generate(PROMPTS[0], GREEDY)[0].outputs[0].token_ids
    stream = shared.stream(PROMPTS[0], GREEDY, adapter="all")
    tokens = [next(stream).token_id]
    shared.unload_adapter("all")  # it serves who has it to the end
    for delta in stream:
        tokens.append(delta.token_id)
    assert tokens == found.outputs[0].token_ids
    shared.generate("A", SamplingParams(max_tokens=1))
    assert not shared.engine.ranks._unloaded, "the other process has let go of it"


def test_ctrl_c_in_the_middle_of_a_pass(alone, shared, monkeypatch):
    """It waits for the pass's end, and the processes stay together."""
    run = shared.engine.runner.cached.run

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        return run(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(shared.engine.runner.cached, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            shared.generate(PROMPTS[0], GREEDY)
    assert_alike(*(llm.generate(PROMPTS[0], GREEDY)[0] for llm in (shared, alone)))


@pytest.mark.parametrize("size", [0, True, "2"])
def test_sizes_that_are_none(home, size):
    with pytest.raises(ConfigError, match=r"tensor_parallel_size is .*; it must be a whole number, 1 or more"):
        LLM(home / "base", tensor_parallel_size=size)


def test_what_another_process_cannot_load_is_told(home):
    with pytest.raises(ConfigError, match="kv_cache is too small"):
        LLM(home / "base", tensor_parallel_size=2, kv_cache=1000)


def test_a_process_that_dies_ends_what_is_asked(shared):
    """The last of this module's tests: nothing can be asked of it afterwards."""
    stream = shared.stream(PROMPTS[0], GREEDY)
    next(stream)
    os.kill(shared.engine.ranks.pids[0], signal.SIGKILL)
    with pytest.raises(EngineStoppedError, match=r"process 1 of the 2 that share the network .* ended by SIGKILL"):
        list(stream)
    with pytest.raises(EngineStoppedError, match="SIGKILL"):
        shared.generate(PROMPTS[0], GREEDY)


@pytest.mark.slow
def test_an_engine_that_loses_a_part_is_started_again(home, alone):
    async def crash():
        async with AsyncEngine(str(home / "base"), tensor_parallel_size=2) as engine:
            stream = engine.generate(PROMPTS[0], SamplingParams(temperature=0, max_tokens=200, ignore_eos=True))
            await stream.next()
            other = int(subprocess.check_output(["pgrep", "-P", str(engine.pid), "-f", "rank_process"]))
            os.kill(other, signal.SIGKILL)
            with pytest.raises(EngineStoppedError, match=r"process 1 of the 2 .* ended by SIGKILL"):
                async for _ in stream:
                    pass
            deadline = time.monotonic() + 60
            while not engine.is_ready:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            return engine.restarts, await engine.complete(PROMPTS[0], GREEDY)

    restarts, output = asyncio.run(crash())
    assert restarts == 1
    assert_alike(output, alone.generate(PROMPTS[0], GREEDY)[0])
