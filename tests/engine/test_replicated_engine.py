"""How several engines share machines, and what keeps them from starting."""

from __future__ import annotations

import asyncio
import importlib.util
import os

import pytest
from tiny_repository import write_repository

from halfbyte.engine import ray_link
from halfbyte.engine.replicated_engine import ReplicatedEngine, share_of_machine
from halfbyte.errors import CheckpointError, ConfigError, IntegrationError

HAS_RAY = importlib.util.find_spec("ray") is not None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_repository(tmp_path_factory.mktemp("model"), max_position_embeddings=4096)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: pip install 'halfbyte[ray]'")
def test_what_an_actor_cannot_load_is_said(tmp_path):
    write_repository(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"damaged")

    async def run():
        engine = ReplicatedEngine(str(tmp_path / "model"), replicas=2, ray_address="local")
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            await engine.start()
        assert engine.is_lost or not engine.is_ready
        await engine.stop()

    asyncio.run(run())
    importlib.import_module("ray").shutdown()


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


@pytest.mark.parametrize(("address", "reason"), [("127.0.0.1:1", "refused"), ("a:b", "b"), ("ray://a:1", "client")])
def test_an_address_where_no_cluster_is_is_said_at_once(address, reason):
    with pytest.raises(ConfigError, match=reason):
        ray_link._knock(address)
