"""vLLM's old /generate and what stands beside it, over HTTP as its clients ask."""

from __future__ import annotations

import json

import httpx
import pytest

PROMPT = "The capital of France is"
GREEDY = {"prompt": PROMPT, "temperature": 0, "max_tokens": 6}


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def openai_text(client, **more):
    body = {"prompt": PROMPT, "temperature": 0, "max_tokens": 6} | more
    return client.post("/v1/completions", json=body).raise_for_status().json()["choices"][0]["text"]


def test_the_answer_follows_the_prompt(client):
    found = client.post("/generate", json=GREEDY)
    assert found.json() == {"text": [PROMPT + openai_text(client)]}


def test_sixteen_tokens_are_the_default(client):
    (text,) = client.post("/generate", json={"prompt": PROMPT, "temperature": 0, "ignore_eos": True}).json()["text"]
    assert text == PROMPT + openai_text(client, max_tokens=16, ignore_eos=True)


def test_streamed_lines_are_cumulative(client):
    with client.stream("POST", "/generate", json=GREEDY | {"stream": True}) as response:
        raw = b"".join(response.iter_bytes())
    assert raw.endswith(b"\n")
    assert b"\0" not in raw
    texts = [json.loads(line)["text"][0] for line in raw.splitlines()]
    assert len(texts) == 6
    assert all(later.startswith(before) for before, later in zip([PROMPT, *texts], texts, strict=False))
    assert texts[-1] == PROMPT + openai_text(client)


def test_several_answers_come_in_order(client):
    body = {"prompt": PROMPT, "n": 3, "temperature": 1.0, "seed": 7, "max_tokens": 8}
    whole = client.post("/generate", json=body).json()["text"]
    with client.stream("POST", "/generate", json=body | {"stream": True}) as response:
        last = json.loads(list(response.iter_lines())[-1])["text"]
    assert len(set(whole)) > 1
    assert last == whole


def test_curl_needs_no_header(client):
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.post("/generate", content=json.dumps(GREEDY), headers=form).status_code == 200


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"prompt": PROMPT, "use_beam_search": True}, "use_beam_search is not supported"),
        ({"prompt": PROMPT, "tempreature": 1}, "'tempreature' is no sampling parameter"),
        ({"prompt": PROMPT, "temperature": -1}, "temperature is -1"),
        ({"prompt": PROMPT, "best_of": 2, "stream": True}, "best_of cannot be streamed"),
        ({"prompt": "a " * 3000}, "the prompt has"),
        ({"prompt": 3}, "prompt: "),
        ({}, "prompt: Field required"),
    ],
)
def test_what_cannot_be_done_is_said(client, body, says):
    found = client.post("/generate", json=body)
    assert found.status_code == 422
    assert says in found.json()["error"]
    assert found.json()["error_type"] == "validation"


def test_neutral_values_of_what_we_lack_are_taken(client):
    assert client.post("/generate", json=GREEDY | {"use_beam_search": False, "early_stopping": False}).is_success


def test_a_client_that_leaves_ends_its_request(client, server):
    body = {"prompt": PROMPT, "stream": True, "max_tokens": 1500, "ignore_eos": True}
    with client.stream("POST", "/generate", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        assert client.get("/load").json()["server_load"] >= 1
    server.wait_until_idle()
    assert client.get("/load").json() == {"server_load": 0}


def test_tokens_go_there_and_back(client, server):
    found = client.post("/tokenize", json={"prompt": "Größe: 5 €", "return_token_strs": True}).json()
    assert found["tokens"] == server.models.first.tokenizer.encode("Größe: 5 €")
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert found["max_model_len"] == 2048
    assert client.post("/detokenize", json={"tokens": found["tokens"]}).json() == {"prompt": "Größe: 5 €"}


def test_a_conversation_is_tokenized_as_the_template_writes_it(client):
    messages = [{"role": "user", "content": "Hi"}]
    found = client.post("/tokenize", json={"messages": messages}).json()
    text = client.post("/detokenize", json={"tokens": found["tokens"]}).json()["prompt"]
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_a_token_that_is_none_is_refused(client):
    assert client.post("/detokenize", json={"tokens": [2**40]}).status_code == 400


def test_operators_find_what_vllm_has(client):
    assert client.get("/health").status_code == client.get("/ping").status_code == 200
    assert client.get("/version").json()["version"]
    assert "vllm:num_requests_running" in client.get("/metrics").text
