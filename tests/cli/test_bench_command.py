"""The bench commands on the tiny model: what they print adds up."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from halfbyte.evaluate.load import at_a_rate
from halfbyte.evaluate.serving import Timing, report, samples

SMALL = ("--num-prompts", 5, "--input-len", 20, "--output-len", 8)


def test_figures():
    timings = [
        Timing(0.0, 10, [0.5, 0.6, 0.8]),
        Timing(1.0, 10, [1.1]),
        Timing(1.0, 10, error="refused"),
        Timing(2.0, 10, [2.2, 2.4], tokens=5),
    ]
    found = samples(timings)
    assert found["ttft"] == pytest.approx([500, 100, 200])
    assert found["itl"] == pytest.approx([100, 200, 200])
    assert found["tpot"] == pytest.approx([150, 50])
    figures = report(timings, 2.0).as_dict()
    assert (figures["requests"], figures["failed"], figures["output_tokens"]) == (4, 1, 9)
    assert figures["output_tokens_per_second"] == 4.5
    assert figures["requests_per_second"] == 1.5
    assert figures["milliseconds"]["ttft"] == pytest.approx({"mean": 800 / 3, "median": 200, "p99": 494})


@pytest.mark.parametrize("kind", ["throughput", "latency"])
def test_in_this_process(run, tiny, kind):
    size = SMALL if kind == "throughput" else ("--batch-size", 1, "--rounds", 5, *SMALL[2:])
    result = run("bench", kind, tiny, *size, "--json")
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert (figures["requests"], figures["failed"]) == (5, 0)
    assert (figures["prompt_tokens"], figures["output_tokens"]) == (100, 40)
    assert set(figures["milliseconds"]) == {"ttft", "tpot", "itl", "e2e"}
    table = run("bench", kind, tiny, *size)
    assert "TPOT" in table.stdout
    assert "output tokens per second" in table.stdout


def test_in_its_own_process(run, tiny):
    result = run("bench", "serve", tiny, *SMALL, "--vocabulary", 200, "--request-rate", 200, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["output_tokens"] == 40


class Server(BaseHTTPRequestHandler):
    """Streams as OpenAI does, two tokens a piece, and refuses a prompt that begins with an even number."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.reply(json.dumps({"data": [{"id": "parrot"}]}))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert (body["model"], body["stream"]) == ("parrot", True)
        if body["prompt"][0] % 2 == 0:
            self.reply("no", 429)
            return
        pieces = [{"choices": [{"text": "a b"}]}] * (body["max_tokens"] // 2)
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"]}
        events = [json.dumps(piece) for piece in [*pieces, {"choices": [], "usage": usage}]]
        self.reply("".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]))

    def reply(self, text, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture
def url():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_a_server(run, url):
    result = run("bench", "serve", "--url", url, "--num-prompts", 12, "--output-len", 8, "--json")
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    good = figures["requests"] - figures["failed"]
    assert 0 < good < 12
    assert figures["output_tokens"] == 8 * good


def test_nobody_there(run):
    result = run("bench", "serve", "--url", "http://127.0.0.1:9/v1")
    assert result.exit_code == 1
    assert "must name an OpenAI-compatible server" in result.stderr
    assert run("bench", "serve").exit_code == 2


def test_no_more_than_the_concurrency_are_under_way():
    under_way, most = 0, 0

    async def ask(prompt):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1
        return Timing(0.0, len(prompt), [1.0])

    timings, _ = asyncio.run(at_a_rate(ask, [[1]] * 20, float("inf"), 3, 0))
    assert (len(timings), most) == (20, 3)


def test_a_picture_that_cannot_be_written_costs_nobody_the_figures(run, tiny, tmp_path):
    result = run("bench", "throughput", tiny, *SMALL, "--json", "--picture", tmp_path / "nowhere" / "x.png")
    assert result.exit_code != 0
    assert json.loads(result.stdout)["failed"] == 0


def test_the_picture(run, tiny, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "times.png"
    result = run("bench", "throughput", tiny, *SMALL, "--picture", path)
    assert result.exit_code == 0, result.stderr
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_keys_and_values_that_fast_kernels_do_not_have(run, tiny, quantized, kind, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused = run("bench", "throughput", quantized, *SMALL, "--kv-cache-dtype", kind)
    assert refused.exit_code == 1
    assert f"kv_cache_dtype '{kind}' needs a GPU, or compute=\"float32\"" in " ".join(refused.stderr.split())
    result = run("bench", "throughput", tiny, *SMALL, "--kv-cache-dtype", kind, "--compute", "float32", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["output_tokens"] == 40


def test_kernels(run, quantized, monkeypatch):
    import torch

    from halfbyte.evaluate import kernel_timing

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(kernel_timing, "FRESH", {"cpu": 1})
    monkeypatch.setattr(kernel_timing, "ROUNDS", 1)
    result = run("bench", "kernels", quantized, "--tokens", 1, "--tokens", 3, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["device"] == "cpu"
    assert found["choices"] is None
    assert {row["product"] for row in found["timings"]} == {"qkv", "o", "gate_up", "down", "head"}
    assert {(row["tokens"], row["way"]) for row in found["timings"]} == {
        (n, w) for n in (1, 3) for w in ("ours", "float32")
    }
    assert all(row["us"] > 0 for row in found["timings"])
    assert "TFLOP/s" in run("bench", "kernels", quantized, "--tokens", 1).stdout
