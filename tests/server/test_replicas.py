"""A server with two engines of one model, in processes of this machine and as Ray's actors, of which one is killed."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import os
import re
import signal
from functools import partial

import httpx
import pytest
from server_thread import ServerThread
from test_adapters import write_adapter
from tiny_repository import write_repository

from halfbyte import LLM, SamplingParams
from halfbyte.engine.replicated_engine import ReplicatedEngine
from halfbyte.server.auth import Key
from halfbyte.server.models import Models
from halfbyte.server.settings import ServerSettings

HAS_RAY = importlib.util.find_spec("ray") is not None
RAY = [pytest.mark.slow, pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: pip install 'halfbyte[ray]'")]
ADMIN = {"Authorization": "Bearer root"}
ENDLESS, LONG, SHORT = 4000, 300, 30  # tokens
AT_ONCE = 4  # sequences of a pass


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("served")
    write_repository(home / "base", max_position_embeddings=4096)
    write_adapter(home / "adapter", home / "base", 1, ["self_attn.q_proj"], 4)
    return home


@pytest.fixture(scope="module", params=[None, pytest.param("local", marks=RAY)], ids=["processes", "ray"])
def server(request, home):
    models = Models(partial(ReplicatedEngine, replicas=2, ray_address=request.param))
    models.add("base", str(home / "base"), enable_lora=True, max_num_seqs=AT_ONCE)
    models.add_adapter("tuned", home / "adapter")
    with ServerThread(ServerSettings(port=0, admin_keys=(Key("root", "root"),)), models) as running:
        yield running
    if request.param is not None:
        import ray

        ray.shutdown()


async def all_ready(client):
    while True:  # pytest-timeout ends it
        engines = (await client.get("/ready")).json()["models"]["base"]["replicas"]
        if all(engine["ready"] and engine["pid"] for engine in engines):
            return engines
        await asyncio.sleep(0.02)


async def complete(client, prompt, tokens, model="base"):
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    answer = await client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["text"]


async def stream(client, prompt, tokens, begun=None):
    """The text, and the message of the error event if there was one."""
    body = {"model": "base", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    text = ""
    async with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            event = line.removeprefix("data: ")
            if event in ("", "[DONE]"):
                continue
            found = json.loads(event)
            if "error" in found:
                return text, found["error"]["message"]
            text += found["choices"][0]["text"]
            if begun is not None:
                begun.release()
    return text, None


def test_a_killed_replica_loses_only_what_has_begun_to_stream(server, home):
    """Of both engines: streams that have begun, whole answers, and streams that wait behind them."""
    llm = LLM(home / "base", enable_lora=True)
    llm.load_adapter("tuned", home / "adapter")
    prompts = [f"{number} is a number" for number in range(8)]

    def expect(prompts, tokens, **options):
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
        return [output.outputs[0].text for output in llm.generate(prompts, params, use_tqdm=False, **options)]

    short, long = expect(prompts, SHORT), expect(prompts[:4], LONG)
    (tuned,) = expect(prompts[:1], SHORT, adapter="tuned")

    async def run():
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            engines = await all_ready(client)
            begun = asyncio.Semaphore(0)
            streams = [asyncio.ensure_future(stream(client, f"{n} begins", ENDLESS, begun)) for n in range(4)]
            for _ in streams:
                await begun.acquire()
            whole = [asyncio.ensure_future(complete(client, prompt, LONG)) for prompt in prompts[:4]]
            await asyncio.sleep(0.2)
            waiting = [asyncio.ensure_future(stream(client, prompt, SHORT)) for prompt in prompts]
            for _ in range(100):  # until all are there; on a machine that was held up, some have ended already
                if server.engine.unfinished == 16:
                    break
                await asyncio.sleep(0.01)
            os.kill(engines[0]["pid"], signal.SIGKILL)
            ended = [await each for each in itertools.islice(asyncio.as_completed(streams), 2)]
            errors = [error or "" for _, error in ended]
            for each in streams:  # the other two have the other engine
                each.cancel()
            assert all("replica 0" in error and "before the request was answered" in error for error in errors)
            assert await asyncio.gather(*whole) == long
            assert await asyncio.gather(*waiting) == [(text, None) for text in short]
            engines = await all_ready(client)
            assert [engine["restarts"] for engine in engines] == [1, 0]
            texts = await asyncio.gather(*(complete(client, prompts[0], SHORT, "tuned") for _ in range(6)))
            assert texts == [tuned] * 6, "the new one has the adapter too"

    asyncio.run(run())
    assert server.engine.unfinished == 0
    figures = httpx.get(f"{server.url}/metrics").text
    for engine in "01":
        assert f'vllm:generation_tokens_total{{engine="{engine}",model_name="base"}}' in figures
    standing = re.findall(r'^halfbyte:(engine_ready|engine_restarts_total)\{engine="(\d)",.*\} (\S+)$', figures, re.M)
    assert sorted(standing) == [
        ("engine_ready", "0", "1.0"),
        ("engine_ready", "1", "1.0"),
        ("engine_restarts_total", "0", "1.0"),
        ("engine_restarts_total", "1", "0.0"),
    ]


def test_an_adapter_comes_and_goes_on_both(server, home):
    """After the first test, or both engines may be starting still, which is as well."""
    with httpx.Client(base_url=server.url, headers=ADMIN, timeout=60) as admin:
        refused = admin.post("/admin/adapters", json={"name": "more", "path": str(home / "nowhere")})
        assert (refused.status_code, "nowhere" in refused.text) == (400, True)
        assert admin.post("/admin/adapters", json={"name": "more", "path": str(home / "adapter")}).status_code == 201
        (base,) = [model for model in admin.get("/admin/models").json()["models"] if model["name"] == "base"]
        assert [engine["unfinished"] for engine in base["replicas"]] == [0, 0]
        assert admin.delete("/admin/adapters/more").status_code == 204
        assert admin.post("/v1/completions", json={"model": "more", "prompt": "a"}).status_code == 404
