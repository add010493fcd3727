"""TGI's routes, through huggingface_hub's client where it has a way to ask."""

from __future__ import annotations

import json

import httpx
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import ValidationError

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def hub(server):
    return InferenceClient(base_url=server.url, timeout=60)


def events(client, body, path="/generate_stream"):
    with client.stream("POST", path, json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        return [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line]


def test_the_hub_s_client_gets_text_and_details(hub):
    text = hub.text_generation(PROMPT, max_new_tokens=6)
    found = hub.text_generation(PROMPT, max_new_tokens=6, details=True, decoder_input_details=True, top_n_tokens=3)
    assert found.generated_text == text == "".join(token.text for token in found.details.tokens)
    assert found.details.finish_reason == "length"
    assert found.details.generated_tokens == len(found.details.tokens) == 6
    assert "".join(token.text for token in found.details.prefill) == PROMPT
    assert found.details.prefill[0].logprob is None
    for token, top in zip(found.details.tokens, found.details.top_tokens, strict=True):
        assert (top[0]["id"], top[0]["logprob"]) == (token.id, token.logprob)
        assert [t["logprob"] for t in top] == sorted((t["logprob"] for t in top), reverse=True)


def test_the_hub_s_client_streams(hub):
    whole = hub.text_generation(PROMPT, max_new_tokens=6)
    found = list(hub.text_generation(PROMPT, max_new_tokens=6, stream=True, details=True))
    assert "".join(step.token.text for step in found) == whole == found[-1].generated_text
    assert [step.index for step in found] == list(range(1, 7))
    assert all(step.generated_text is None and step.details is None for step in found[:-1])
    assert (found[-1].details.finish_reason, found[-1].details.input_length) == ("length", 5)
    assert "".join(hub.text_generation(PROMPT, max_new_tokens=6, stream=True)) == whole


def test_the_hub_s_client_chats(hub):
    found = hub.chat_completion(
        [{"role": "user", "content": "What is the capital of France?"}], max_tokens=12, seed=1, temperature=0.01
    )
    assert "Paris" in found.choices[0].message.content


def test_a_stop_sequence_stays_in_the_text_and_is_the_reason(hub):
    found = hub.text_generation(PROMPT, max_new_tokens=40, stop=["Paris"], details=True)
    assert found.generated_text.endswith("Paris")
    assert found.details.finish_reason == "stop_sequence"


def test_the_model_s_own_end_is_a_special_token(client):
    chat = client.post("/chat_tokenize", json={"messages": [{"role": "user", "content": "Say hi."}]}).json()
    found = events(client, {"inputs": chat["templated_text"], "parameters": {"max_new_tokens": 200}})
    assert found[-1]["details"]["finish_reason"] == "eos_token"
    assert found[-1]["token"]["special"] is True
    assert found[-1]["token"]["text"] not in found[-1]["generated_text"]
    assert not any(event["token"]["special"] for event in found[:-1])


def test_a_seed_gives_the_same_again(client):
    body = {"inputs": PROMPT, "parameters": {"do_sample": True, "max_new_tokens": 12, "details": True}}
    first = client.post("/generate", json=body).json()
    body["parameters"]["seed"] = first["details"]["seed"]
    assert client.post("/generate", json=body).json() == first


def test_best_of_gives_the_likeliest_first(client):
    given = {"do_sample": True, "best_of": 3, "max_new_tokens": 8, "details": True}
    found = client.post("/generate", json={"inputs": PROMPT, "parameters": given}).json()["details"]
    others = found["best_of_sequences"]

    def mean(sequence):
        return sum(token["logprob"] for token in sequence["tokens"]) / len(sequence["tokens"])

    assert len(others) == 2
    assert mean(found) >= max(mean(other) for other in others)


def test_the_full_text_and_a_truncated_prompt(client):
    given = {
        "max_new_tokens": 4,
        "return_full_text": True,
        "truncate": 2,
        "decoder_input_details": True,
        "details": True,
    }
    found = client.post("/generate", json={"inputs": PROMPT, "parameters": given}).json()
    assert found["generated_text"].startswith(PROMPT)
    assert [token["text"] for token in found["details"]["prefill"]] == [" France", " is"]


@pytest.mark.parametrize(
    ("grammar", "fits"),
    [
        ({"type": "regex", "value": "[0-9]{4}"}, lambda text: text.isdigit() and len(text) == 4),
        ({"type": "json", "value": {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9}}, "required": ["a"], "additionalProperties": False}}, lambda text: isinstance(json.loads(text)["a"], int)),
    ],
)  # fmt: skip
def test_a_grammar_holds(client, grammar, fits):
    given = {"max_new_tokens": 60, "grammar": grammar}
    assert fits(client.post("/generate", json={"inputs": PROMPT, "parameters": given}).json()["generated_text"])


def test_the_root_answers_a_list_or_a_stream(client):
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 5}}
    one = client.post("/generate", json=body).json()
    for path in ("/", "/invocations"):
        assert client.post(path, json=body).json() == [one]
        assert events(client, body | {"stream": True}, path)[-1]["generated_text"] == one["generated_text"]


def test_invocations_takes_openai_s_bodies_too(client):
    chat = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": 5}
    there, here = (client.post(path, json=chat).json()["choices"] for path in ("/v1/chat/completions", "/invocations"))
    assert here == there
    text = {"prompt": PROMPT, "temperature": 0, "max_tokens": 5}
    there, here = (client.post(path, json=text).json()["choices"] for path in ("/v1/completions", "/invocations"))
    assert here == there
    assert "error" in client.post("/invocations", json={"messages": "none"}).json()


def test_tokens_know_their_places(client):
    text = "Größe: 5 €"
    found = client.post("/tokenize", json={"inputs": text}).json()
    assert found[0]["start"] == 0
    assert found[-1]["stop"] == len(text)
    assert all(token["text"] == text[token["start"] : token["stop"]] for token in found)


def test_info_tells_the_bounds(client):
    found = client.get("/info").json()
    assert (found["model_id"], found["max_total_tokens"]) == ("smol", 2048)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"watermark": True}, "not watermarked"),
        ({"temperature": 0}, "greater than 0"),
        ({"best_of": 2}, "best_of > 1 needs sampling"),
        ({"adapter_id": "none"}, "'none' is not served"),
        ({"max_time": 3}, "max_time: Extra inputs are not permitted"),
        ({"grammar": {"type": "regex", "value": "("}}, "regex"),
        ({"stop": [""]}, "stop is "),
    ],
)
def test_what_cannot_be_honoured_is_refused(client, parameters, says):
    found = client.post("/generate", json={"inputs": PROMPT, "parameters": parameters})
    assert found.status_code == 422
    assert found.json()["error_type"] == "validation"
    assert says in found.json()["error"]


@pytest.mark.parametrize("parameters", [{"best_of": 2, "do_sample": True}, {"decoder_input_details": True}])
def test_what_cannot_be_streamed_is_refused(client, parameters):
    found = client.post("/generate_stream", json={"inputs": PROMPT, "parameters": parameters})
    assert found.status_code == 422
    assert "not supported when streaming" in found.json()["error"]


def test_the_hub_s_client_raises_what_we_refuse(hub):
    with pytest.raises(ValidationError, match="the prompt has"):
        hub.text_generation("a " * 3000)


def test_a_full_queue_is_overload(client, server, monkeypatch):
    monkeypatch.setattr(server.engine, "max_requests", 0)
    found = client.post("/generate", json={"inputs": PROMPT})
    assert (found.status_code, found.json()["error_type"]) == (429, "overloaded")
    assert int(found.headers["retry-after"]) >= 1


def test_an_engine_that_is_gone_is_a_failed_generation(client, server, monkeypatch):
    monkeypatch.setattr(server.engine, "_refusal", "the engine is stopped")
    found = client.post("/generate", json={"inputs": PROMPT})
    assert (found.status_code, found.json()["error_type"]) == (424, "generation")
