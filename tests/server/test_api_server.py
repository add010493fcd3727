"""`python -m halfbyte.entrypoints.api_server`: its options, and that it serves."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time

import httpx
import pytest

from halfbyte.entrypoints.api_server import engine_settings, main, parse, server_settings, source
from halfbyte.errors import ConfigError


def test_the_card_s_command_serves(smollm2_awq):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "halfbyte.entrypoints.api_server", "--model", str(smollm2_awq), "--quantization",
               "awq", "--port", str(port), "--max-model-len", "512"]  # fmt: skip
    url, environment = f"http://127.0.0.1:{port}", os.environ | {"HALFBYTE_API_KEY": "secret"}
    environment.pop("OMP_NUM_THREADS", None)  # as many threads as a user gets
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(f"{url}/health", process)
            assert httpx.post(f"{url}/generate", json={"prompt": "Hi"}).status_code == 401
            found = httpx.post(
                f"{url}/generate",
                json={"prompt": "The capital of France is", "temperature": 0, "max_tokens": 4},
                headers={"Authorization": "Bearer secret"},
                timeout=60,
            )
            assert found.json()["text"][0].startswith("The capital of France is")
        finally:
            process.terminate()
        assert process.wait(30) == 0
        assert "secret" not in process.stderr.read()


def wait_for(url, process):
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(f"the server did not start: exit code {process.poll()}")


def test_options_reach_engine_and_server():
    options = parse(["--model", "org/name", "--revision", "main", "-q", "awq", "--max-model-len", "99", "--dtype", "float32",
                     "--no-enable-prefix-caching", "--host", "::1", "--api-key", "a", "--api-key", "b", "--trust-remote-code"])  # fmt: skip
    settings = engine_settings(options)
    assert engine_settings(parse(["--model", "m", "--dtype", "half", "-tp", "2", "-q", "gptq"])) == {
        "quantization": "gptq", "tokenizer": None, "seed": 0, "max_model_len": None, "compute": "auto", "kv_cache": None,
        "kv_cache_dtype": "auto", "max_num_seqs": None, "max_num_batched_tokens": None, "enable_prefix_caching": True,
        "tensor_parallel_size": 2,
    }  # fmt: skip
    assert source(options) == "org/name@main"
    assert (settings["quantization"], settings["max_model_len"], settings["compute"]) == ("awq", 99, "float32")
    assert settings["enable_prefix_caching"] is False
    server = server_settings(options)
    assert (server.host, [key.secret for key in server.keys]) == ("::1", ["a", "b"])


def test_only_this_machine_may_ask_by_default():
    assert server_settings(parse(["--model", "x"])).host == "127.0.0.1"


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (["--gpu-memory-utilization", "0.9"], "--kv-cache"),
        (["--swap-space=4"], "nothing is swapped out"),
        (["--pipeline-parallel-size", "2"], "whole blocks are not spread"),
        (["--quantization", "squeezellm"], "invalid choice"),
        (["--no-such-option"], "unrecognized"),
    ],
)
def test_what_cannot_be_honoured_is_refused(capsys, option, says):
    with pytest.raises(SystemExit) as ended:
        parse(["--model", "x", *option])
    assert ended.value.code == 2
    assert says in re.sub(r"'", "", capsys.readouterr().err)


def test_a_revision_belongs_to_a_hub_id(tmp_path):
    with pytest.raises(ConfigError, match="--revision belongs to a Hub id"):
        source(parse(["--model", str(tmp_path), "--revision", "main"]))


def test_a_model_that_is_not_there_is_said_without_a_traceback(capsys, tmp_path):
    assert main(["--model", str(tmp_path / "none"), "--port", "0"]) == 1
    told = capsys.readouterr().err
    assert re.search(r"^error: .*there is no such file or folder", told, re.MULTILINE)
    assert "Traceback" not in told
