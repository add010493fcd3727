"""One small server in operation: figures, ids, log lines, models and adapters that come and go, and a crash."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import threading
import time

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from server_thread import ServerThread
from test_adapters import write_adapter
from tiny_repository import write_repository

from halfbyte.server.auth import Key
from halfbyte.server.logs import DroppingHandler, Lines, configure, note
from halfbyte.server.models import Models
from halfbyte.server.settings import ServerSettings

SECRET, ADMIN = "sk-secret-of-alice", "sk-secret-of-root"
USER = {"Authorization": f"Bearer {SECRET}"}
ROOT = {"Authorization": f"Bearer {ADMIN}"}
PROMPT = "An unmistakable prompt"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("served")
    base = write_repository(home / "base", max_position_embeddings=20_000)
    write_adapter(home / "adapter", base, 1, ["self_attn.q_proj", "mlp.down_proj"], 4)
    return home


@pytest.fixture(scope="module")
def server(home):
    models = Models()
    models.add("base", str(home / "base"), max_requests=8, enable_lora=True, max_prompt_len=500)
    models.add_adapter("tuned", home / "adapter")
    settings = ServerSettings(port=0, keys=(Key(SECRET, "alice"),), admin_keys=(Key(ADMIN, "root"),), drain_seconds=1)
    with ServerThread(settings, models) as running:
        yield running


@pytest.fixture
def web(server):
    with httpx.Client(base_url=server.url, headers=USER, timeout=20) as client:
        yield client


def complete(web, **changes):
    body = {"prompt": PROMPT, "max_tokens": 4, "temperature": 0, "ignore_eos": True} | changes
    return web.post("/v1/completions", json=body)


def figures(web):
    """{(name, labels but model_name and engine): value}."""
    found = {}
    for family in text_string_to_metric_families(web.get("/metrics").text):
        for sample in family.samples:
            if sample.labels.get("model_name", "base") == "base":
                rest = {k: v for k, v in sample.labels.items() if k not in ("model_name", "engine")}
                found[sample.name, *sorted(rest.items())] = sample.value
    return found


def lines_of(home, action):
    """The log lines, as JSON, that an action leads to."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Lines("json"))
    logger = logging.getLogger("halfbyte")
    logger.addHandler(handler)
    logger.setLevel("INFO")
    try:
        action()
        time.sleep(0.05)  # the line is written after the last byte was sent
    finally:
        logger.removeHandler(handler)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_what_a_request_did_is_counted(web):
    before = figures(web)
    answers = [complete(web), complete(web, n=2, temperature=1, seed=1), complete(web, prompt="x", max_tokens=1)]
    assert [answer.status_code for answer in answers] == [200] * 3
    usage = [answer.json()["usage"] for answer in answers]
    after = figures(web)

    def grown(name, *labels):
        return after[f"vllm:{name}", *labels] - before.get((f"vllm:{name}", *labels), 0)

    assert grown("prompt_tokens_total") == sum(each["prompt_tokens"] for each in usage)
    assert grown("generation_tokens_total") == sum(each["completion_tokens"] for each in usage) == 13
    assert grown("request_success_total", ("finished_reason", "length")) == 3
    for name in ("time_to_first_token", "e2e_request_latency", "request_queue_time", "request_prefill_time",
                 "request_decode_time", "request_inference_time"):  # fmt: skip
        assert grown(f"{name}_seconds_count") == 3, name
    assert grown("inter_token_latency_seconds_count") == grown("time_per_output_token_seconds_count") == 3 + 3 + 3
    assert grown("request_time_per_output_token_seconds_count") == 2, "one token has none after it"
    assert grown("request_prompt_tokens_sum") == sum(each["prompt_tokens"] for each in usage)
    assert grown("request_params_n_sum") == 4
    assert 0 < grown("e2e_request_latency_seconds_sum") < 20
    assert grown("prefix_cache_queries_total") >= grown("prefix_cache_hits_total") > 0, "n=2 and the second ask again"
    whole = grown("request_queue_time_seconds_sum") + grown("request_inference_time_seconds_sum")
    assert whole == pytest.approx(grown("e2e_request_latency_seconds_sum"), abs=0.05)
    assert after["http_requests_total", ("handler", "/v1/completions"), ("method", "POST"), ("status", "200")] >= 3


def test_how_things_stand_is_told(web, server):
    body = {"prompt": "Once", "max_tokens": 15_000, "ignore_eos": True, "stream": True}
    with web.stream("POST", "/v1/completions", json=body) as response:
        lines = response.iter_lines()  # held on to: when it goes, httpx closes the connection
        next(lines)
        now = figures(web)
        assert now["vllm:num_requests_running",] == 1
        assert 0 < now["vllm:kv_cache_usage_perc",] <= 1
        assert now["halfbyte:requests_under_way",] == 1
    for _ in range(200):
        now = figures(web)
        if now["vllm:kv_cache_usage_perc",] == 0:
            break
        time.sleep(0.02)
    assert now["vllm:num_requests_running",] == now["vllm:kv_cache_usage_perc",] == 0, "nobody asks, but it is told"
    assert now["vllm:request_success_total", ("finished_reason", "abort")] >= 1
    assert now["halfbyte:engine_ready",] == 1


def test_names_and_buckets_are_vllms(web):
    """Taken from vLLM 0.11's loggers.py; its Grafana dashboards ask for these."""
    complete(web)
    now = figures(web)
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prefix_cache_queries_total",
                 "prefix_cache_hits_total", "prompt_tokens_total", "generation_tokens_total", "num_preemptions_total",
                 "request_prompt_tokens_count", "request_generation_tokens_count",
                 "request_max_num_generation_tokens_sum"):  # fmt: skip
        assert (f"vllm:{name}",) in now, name
    edges = {
        name: [dict(key[1:])["le"] for key in now if key[0] == f"vllm:{name}_bucket"]
        for name in ("time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds")
    }
    assert edges["time_to_first_token_seconds"][:3] == ["0.001", "0.005", "0.01"]
    assert edges["time_to_first_token_seconds"][-2:] == ["2560.0", "+Inf"]
    assert edges["inter_token_latency_seconds"][:3] == ["0.01", "0.025", "0.05"]
    assert edges["inter_token_latency_seconds"][-2:] == ["80.0", "+Inf"]
    assert edges["e2e_request_latency_seconds"][:3] == ["0.3", "0.5", "0.8"]
    assert edges["e2e_request_latency_seconds"][-2:] == ["7680.0", "+Inf"]
    assert 'vllm:num_requests_running{engine="0",model_name="base"}' in web.get("/metrics").text
    passes = {
        dict(key[1:])["le"]: value for key, value in now.items() if key[0] == "vllm:iteration_tokens_total_bucket"
    }
    assert list(passes)[:4] == ["1.0", "8.0", "16.0", "32.0"]
    assert 0 < passes["1.0"] < passes["+Inf"] == now["vllm:iteration_tokens_total_count",]
    assert now["vllm:iteration_tokens_total_sum",] >= passes["+Inf"]


def test_the_dashboard_asks_only_for_what_there_is(web):
    from pathlib import Path

    complete(web, max_tokens=3)
    complete(web, prompt="x" * 600)  # refused, and counted as such
    dashboard = json.loads((Path(__file__).parents[2] / "examples" / "grafana.json").read_text())
    asked = set()
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            asked |= set(re.findall(r"(?:vllm|halfbyte):\w+|http_\w+|process_\w+", target["expr"]))
    there = set(re.findall(r"^([\w:]+)", web.get("/metrics").text, re.M))
    assert len(asked) > 12
    assert asked <= there, asked - there


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("abc-1.2:3_x", True),
        ("", False),
        ("a b", False),
        ("x" * 129, False),
        ('"}', False),
        ("é".encode("latin-1"), False),
    ],
)
def test_a_request_id_is_kept_if_it_is_harmless(web, given, kept):
    answer = web.get("/v1/models", headers={"X-Request-Id": given})
    if kept:
        assert answer.headers["x-request-id"] == given
    else:
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


def test_a_line_tells_what_was_done_and_no_secret(web, home):
    def action():
        complete(web, prompt=[PROMPT, PROMPT])
        web.get("/v1/models", headers={"Authorization": "Bearer sk-wrong-secret", "X-Request-Id": "mine"})
        web.post("/v1/completions", json={"prompt": PROMPT, "temperature": "hot " + PROMPT})

    lines = lines_of(home, action)
    (done,) = [line for line in lines if line["status"] == 200]
    assert done["key"] == "alice"
    assert (done["method"], done["path"], done["model"]) == ("POST", "/v1/completions", "base")
    assert (done["completion_tokens"], done["finish_reason"]) == (8, "length")
    assert done["prompt_tokens"] > 8
    assert done["seconds"] > 0
    (refused,) = [line for line in lines if line["status"] == 401]
    assert refused["request_id"] == "mine"
    text = json.dumps(lines)
    assert "sk-" not in text
    assert PROMPT not in text


def test_prompts_are_logged_if_asked_for(home):
    models = Models()
    models.add("base", str(home / "base"))
    with ServerThread(ServerSettings(port=0, log_prompts=True), models) as running:
        lines = lines_of(home, lambda: httpx.post(running.url + "/v1/completions", json={"prompt": PROMPT}))
    assert [line["prompt"] for line in lines if "prompt" in line] == [PROMPT]


def test_what_an_exception_says_stays_out_of_the_log_unless_prompts_may_be_there():
    try:
        raise ValueError(PROMPT)
    except ValueError:
        record = logging.getLogger("x").makeRecord("x", 40, "f", 1, "failed", (), __import__("sys").exc_info())
    quiet, open_ = (Lines("json", with_texts=texts).format(record) for texts in (False, True))
    assert PROMPT not in quiet
    assert "ValueError" in quiet
    assert "test_operating" in quiet
    assert PROMPT in open_


def test_nothing_in_a_request_makes_a_second_line():
    record = logging.getLogger("x").makeRecord("x", 20, "f", 1, "request", (), None)
    record.fields = {"path": "/a\nlevel=error\u2028 \x1b[31m x=y", "status": 200}
    for style in ("json", "text"):
        line = Lines(style).format(record)
        assert line.splitlines() == [line]
        assert "\x1b" not in line
        assert "status" in line


def test_a_log_that_nobody_reads_holds_nothing_up():
    from queue import Queue

    handler = DroppingHandler(Queue(2))
    logger = logging.getLogger("a logger of this test")
    logger.propagate = False
    logger.addHandler(handler)
    for number in range(10):
        logger.warning("line %d", number)
    assert handler.queue.qsize() == 2


def test_logging_is_set_up_for_us_and_uvicorn(capfd):
    before = {name: logging.getLogger(name).handlers for name in ("halfbyte", "uvicorn")}
    lines = configure("json")
    note(nothing="here: no request is being answered")
    logging.getLogger("uvicorn.error").info("hello from %s", "uvicorn")
    lines.stop()
    for name, handlers in before.items():
        logging.getLogger(name).handlers = handlers
        logging.getLogger(name).propagate = True
    assert json.loads(capfd.readouterr().err)["message"] == "hello from uvicorn"


def test_an_adapter_is_a_model_by_its_own_name(web):
    plain, tuned = complete(web, logprobs=0), complete(web, model="tuned", logprobs=0)
    assert tuned.json()["model"] == "tuned"
    own = [answer.json()["choices"][0]["logprobs"]["token_logprobs"] for answer in (plain, tuned)]
    assert own[0] != own[1]
    cards = {card["id"]: card for card in web.get("/v1/models").json()["data"]}
    assert (cards["base"]["parent"], cards["tuned"]["parent"]) == (None, "base")


def test_models_and_adapters_come_and_go(server, web, home):
    with httpx.Client(base_url=server.url, headers=ROOT, timeout=30) as admin:
        made = admin.post("/admin/models", json={"name": "second", "source": str(home / "base")})
        assert (made.status_code, made.json()["ready"]) == (201, True), made.text
        assert complete(web, model="second").status_code == 200
        made = admin.post("/admin/adapters", json={"name": "more", "path": str(home / "adapter"), "model": "second"})
        assert (made.status_code, made.json()["adapter_of"]) == (201, "second")
        texts = [complete(web, model=name, max_tokens=20).json()["choices"][0]["text"] for name in ("more", "tuned")]
        assert texts[0] == texts[1]
        for body, status, reason in [
            ({"name": "second", "source": "x"}, 400, "taken"),
            ({"name": "third", "source": str(home / "nowhere")}, 400, "nowhere"),
            ({"name": "bad name\n", "source": "x"}, 400, "name"),
            ({"name": "third"}, 400, "source"),
        ]:
            refused = admin.post("/admin/models", json=body)
            assert (refused.status_code, reason in refused.text) == (status, True), refused.text
        refused = admin.post("/admin/adapters", json={"name": "x", "path": str(home / "base")})
        assert refused.status_code == 400
        assert admin.delete("/admin/adapters/second").status_code == 400
        assert admin.delete("/admin/models/more").status_code == 400
        assert admin.delete("/admin/models/absent").status_code == 404
        assert admin.delete("/admin/models/second").status_code == 204
        assert {model["name"] for model in admin.get("/admin/models").json()["models"]} == {"base", "tuned"}
        assert complete(web, model="more").status_code == 404
        loaded = admin.post("/v1/load_lora_adapter", json={"lora_name": "vllms", "lora_path": str(home / "adapter")})
        assert (loaded.status_code, complete(web, model="vllms").status_code) == (200, 200)
        assert admin.post("/v1/unload_lora_adapter", json={"lora_name": "vllms"}).status_code == 200
        assert complete(web, model="vllms").status_code == 404


def test_too_much_is_refused_at_the_door(web, server):
    refused = complete(web, prompt="a b c " * 400)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    body = {"prompt": "Once", "max_tokens": 15_000, "ignore_eos": True, "stream": True}
    streams = [web.stream("POST", "/v1/completions", json=body) for _ in range(8)]
    lines = [stream.__enter__().iter_lines() for stream in streams]
    for each in lines:
        next(each)
    refused = complete(web)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=SECRET, max_retries=0)
    with client, pytest.raises(openai.RateLimitError):
        client.completions.create(model="base", prompt="a")
    for stream in streams:
        stream.__exit__(None, None, None)
    for _ in range(200):
        if server.engine.unfinished == 0:
            break
        time.sleep(0.01)
    assert complete(web).status_code == 200


def test_a_killed_engine_is_told_of_at_once_and_comes_back(web, server):
    ends = []
    begun = threading.Semaphore(0)

    def read():
        with httpx.Client(base_url=server.url, headers=USER, timeout=20) as mine:
            body = {"prompt": "Once", "max_tokens": 15_000, "ignore_eos": True, "stream": True}
            with mine.stream("POST", "/v1/completions", json=body) as response:
                every = (line for line in response.iter_lines() if line)
                lines = [next(every)]
                begun.release()
                lines += every
            ends.append((time.monotonic(), lines[-2:]))

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
        assert begun.acquire(timeout=20)
    pid = server.engine.pid
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    for reader in readers:
        reader.join(20)
    assert len(ends) == 4
    for moment, (error, done) in ends:
        assert moment - killed < 2
        assert "was ended by SIGKILL" in json.loads(error.removeprefix("data: "))["error"]["message"]
        assert done == "data: [DONE]"
    assert web.get("/health").status_code == 200, "it will be well again by itself"
    begin = time.monotonic()
    while web.get("/ready").status_code != 200:
        assert time.monotonic() - begin < 30
        time.sleep(0.05)
    assert web.get("/ping").status_code == 200
    assert server.engine.pid != pid
    assert complete(web).status_code == 200
    assert complete(web, model="tuned").status_code == 200
    assert figures(web)["halfbyte:engine_restarts_total",] == 1
    assert figures(web)["vllm:request_success_total", ("finished_reason", "error")] >= 4
