"""A server whose engine is two processes that share the network, of which one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import httpx
import pytest
from server_thread import ServerThread
from tiny_repository import write_repository

from halfbyte import LLM, SamplingParams
from halfbyte.server.models import Models
from halfbyte.server.settings import ServerSettings

ASKED = {"prompt": "Hello, my name is", "temperature": 0, "max_tokens": 20, "ignore_eos": True}
ENDLESS = {"prompt": "Hello", "temperature": 0, "max_tokens": 4000, "ignore_eos": True}


@pytest.mark.parametrize("killed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_it_answers_and_comes_back(tmp_path, killed):
    folder = write_repository(tmp_path, max_position_embeddings=4096)
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    expected = LLM(folder).generate(ASKED["prompt"], params)[0].outputs[0].text
    models = Models()
    models.add("tiny", str(folder), tensor_parallel_size=2)
    with ServerThread(ServerSettings(port=0), models) as server:
        url = f"{server.url}/v1/completions"
        assert httpx.post(url, json=ASKED).json()["choices"][0]["text"] == expected
        if not killed:
            return
        with httpx.stream("POST", url, json=ENDLESS | {"stream": True}) as stream:
            lines = stream.iter_lines()
            next(lines)
            os.kill(other_process(server.engine.pid), signal.SIGKILL)
            said = "\n".join(lines)
        assert "process 1 of the 2 that share the network" in said
        assert "ended by SIGKILL" in said
        deadline = time.monotonic() + 60
        while not server.engine.is_ready:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert server.engine.restarts == 1
        assert httpx.post(url, json=ASKED).json()["choices"][0]["text"] == expected


def other_process(pid):
    """The one that an engine's process has started."""
    return int(subprocess.check_output(["pgrep", "-P", str(pid), "-f", "rank_process"]))
