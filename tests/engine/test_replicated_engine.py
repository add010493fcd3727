"""Two real engines with one model: in processes of this machine, and as Ray's actors."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal

import pytest
from test_adapters import write_adapter
from tiny_repository import write_repository

from halfbyte import LLM, SamplingParams
from halfbyte.engine.replicated_engine import ReplicatedEngine, share_of_machine
from halfbyte.errors import AdapterError, CheckpointError, ConfigError, EngineStoppedError, IntegrationError

LONG = SamplingParams(temperature=0, max_tokens=800, ignore_eos=True)
SHORT = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
HAS_RAY = importlib.util.find_spec("ray") is not None
RAY = [pytest.mark.slow, pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: pip install 'halfbyte[ray]'")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_repository(tmp_path_factory.mktemp("model"), max_position_embeddings=4096)


@pytest.fixture(scope="module", params=[None, pytest.param("local", marks=RAY)], ids=["processes", "ray"])
def address(request):
    yield request.param
    if request.param is not None:
        import ray

        ray.shutdown()


async def all_ready(engine):
    while not all(replica.is_ready and replica.pid for replica in engine.replicas):  # pytest-timeout ends it
        await asyncio.sleep(0.01)


async def read(stream):
    """Its tokens, and the error that ended it."""
    ids = []
    try:
        async for delta in stream:
            ids.append(delta.token_id)
    except EngineStoppedError as error:
        return ids, str(error)
    return ids, None


def test_a_killed_replica_loses_only_what_has_begun_to_stream(folder, address, tmp_path):
    """Of both: streams that have begun, streams that wait, whole answers that have begun, and those that wait."""
    write_adapter(tmp_path / "adapter", folder, 1, ["self_attn.q_proj"], 4)
    llm = LLM(folder, enable_lora=True)
    llm.load_adapter("tuned", tmp_path / "adapter")
    prompts = [f"{number} is a number" for number in range(8)]
    expected = [output.outputs[0].token_ids for output in llm.generate(prompts, SHORT, use_tqdm=False)]
    tuned = llm.generate(prompts[0], SHORT, use_tqdm=False, adapter="tuned")[0].outputs[0].token_ids

    async def run():
        settings = {"max_num_seqs": 4, "enable_lora": True}
        async with ReplicatedEngine(str(folder), replicas=2, ray_address=address, **settings) as engine:
            await all_ready(engine)
            await engine.load_adapter("tuned", tmp_path / "adapter")
            with pytest.raises(AdapterError, match="nowhere"):
                await engine.load_adapter("other", tmp_path / "nowhere")
            begun = [engine.generate(f"{number} begins", LONG) for number in range(4)]
            for stream in begun:
                await anext(stream)
            whole = [asyncio.ensure_future(engine.complete(f"{n} whole", LONG)) for n in range(4)]
            await asyncio.sleep(0.2)
            waiting = [asyncio.ensure_future(read(engine.generate(prompt, SHORT))) for prompt in prompts]
            await asyncio.sleep(0)
            victim = engine.replicas[0]
            assert [replica.unfinished for replica in engine.replicas] == [8, 8]
            os.kill(victim.pid, signal.SIGKILL)
            ends = await asyncio.gather(*map(read, begun))
            lost = [error for ids, error in ends if error]
            assert len(lost) == 2
            assert all("replica 0" in error and "before the request was answered" in error for error in lost)
            assert [len(ids) for ids, error in ends if not error] == [LONG.max_tokens - 1] * 2
            assert [len(output.outputs[0].token_ids) for output in await asyncio.gather(*whole)] == [800] * 4
            assert await asyncio.gather(*waiting) == [(ids, None) for ids in expected]
            await all_ready(engine)
            assert [replica.restarts for replica in engine.replicas] == [1, 0]
            assert engine.restarts == 1
            answers = await asyncio.gather(*(engine.complete(prompts[0], SHORT, adapter="tuned") for _ in range(6)))
            assert [output.outputs[0].token_ids for output in answers] == [tuned] * 6, "the new one has the adapter too"
            assert engine.unfinished == 0
            assert engine.stats.blocks == sum(replica.stats.blocks for replica in engine.replicas)

    asyncio.run(run())


def test_what_cannot_be_loaded_is_said_by_both_kinds(tmp_path, address):
    write_repository(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"damaged")

    async def run():
        engine = ReplicatedEngine(str(tmp_path / "model"), replicas=2, ray_address=address)
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            await engine.start()
        assert engine.is_lost or not engine.is_ready
        await engine.stop()

    asyncio.run(run())


def test_a_machine_is_shared(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert share_of_machine({}, 0, 2) == {"threads": 4, "kv_cache": 0.125}
    assert share_of_machine({"threads": 3, "kv_cache": "1GiB"}, 0, 2) == {"threads": 3, "kv_cache": "1GiB"}
    assert share_of_machine({}, 1, 16)["threads"] == 1
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert share_of_machine({}, 1, 2) == {"threads": 4, "gpu": "1"}
    assert share_of_machine({"compute": "float32"}, 1, 2) == {
        "compute": "float32",
        "threads": 4,
        "kv_cache": 0.125,
    }
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert share_of_machine({}, 3, 4) == {"threads": 2, "gpu": "7", "kv_cache": 0.425}


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray_the_extra_is_named(folder):
    with pytest.raises(IntegrationError, match=r"halfbyte\[ray\]"):
        ReplicatedEngine(str(folder), replicas=2, ray_address="auto")


def test_no_replica_is_refused(folder):
    with pytest.raises(ConfigError, match="replicas is 0"):
        ReplicatedEngine(str(folder), replicas=0)
