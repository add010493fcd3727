"""Every parameter of OpenAI's does what it says."""

from __future__ import annotations

import json

import openai
import pytest

MODEL = "smol"
PROMPT = "Once upon a time there was a little"
CHAT = [{"role": "user", "content": "Name three colours."}]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def texts(answer):
    return [choice.text for choice in answer.choices]


def test_n_and_seed(client):
    asked = {"model": MODEL, "prompt": [PROMPT, "Water boils"], "n": 3, "seed": 7, "max_tokens": 8, "temperature": 1}
    first, second = client.completions.create(**asked), client.completions.create(**asked)
    assert [choice.index for choice in first.choices] == list(range(6))
    assert len(set(texts(first))) == 6
    assert texts(first) == texts(second)
    streamed = dict.fromkeys(range(6), "")
    for chunk in client.completions.create(**asked, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert list(streamed.values()) == texts(first)


def test_n_at_temperature_0_is_one_answer_given_often(client):
    asked = {"model": MODEL, "messages": CHAT, "n": 3, "temperature": 0, "max_tokens": 6}
    whole = client.chat.completions.create(**asked)
    assert len({choice.message.content for choice in whole.choices}) == 1
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert whole.usage.completion_tokens == 6
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**asked, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == [choice.message.content for choice in whole.choices]


def test_best_of(client):
    asked = {"model": MODEL, "prompt": PROMPT, "seed": 3, "max_tokens": 6, "temperature": 1.5, "logprobs": 0}
    drawn = client.completions.create(**asked, n=4).choices
    best = client.completions.create(**asked, n=1, best_of=4)
    likeliest = max(drawn, key=lambda choice: sum(choice.logprobs.token_logprobs))
    assert texts(best) == [likeliest.text]
    assert best.usage.completion_tokens == 6


def test_stop_and_logit_bias(client, server):
    whole = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=30, temperature=0).choices[0].text
    word = whole.split()[3]
    stopped = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=30, temperature=0, stop=[word, "zzz"])
    assert stopped.choices[0].text == whole[: whole.index(word)]
    assert stopped.choices[0].finish_reason == "stop"
    (token,) = server.models.first.tokenizer.encode(" banana")
    biased = client.completions.create(
        model=MODEL, prompt=PROMPT, max_tokens=3, temperature=0, logit_bias={str(token): 100}
    )
    assert biased.choices[0].text == " banana" * 3


def test_json_object_and_schema(client):
    asked = {"model": MODEL, "messages": CHAT, "temperature": 0, "max_tokens": 200}
    schema = {
        "type": "object",
        "properties": {"colours": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 3}},
        "required": ["colours"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "colours", "schema": schema, "strict": True}}
    found = json.loads(client.chat.completions.create(**asked, response_format=form).choices[0].message.content)
    assert set(found["colours"]) <= {"red", "green", "blue"}
    free = client.chat.completions.create(**asked, response_format={"type": "json_object"}).choices[0]
    assert free.message.content.startswith("{")
    if free.finish_reason == "stop":
        json.loads(free.message.content)


@pytest.mark.parametrize(
    "extra",
    [{"guided_choice": ["yes", "no"]}, {"structured_outputs": {"choice": ["yes", "no"]}}, {"guided_regex": "yes|no"}],
)
def test_vllms_constraints(client, extra):
    answer = client.chat.completions.create(model=MODEL, messages=CHAT, temperature=0, extra_body=extra)
    assert answer.choices[0].message.content in ("yes", "no")


def test_max_completion_tokens_and_penalties(client):
    answer = client.chat.completions.create(
        model=MODEL, messages=CHAT, max_completion_tokens=3, max_tokens=50, presence_penalty=0.5, frequency_penalty=0.5,
        top_p=0.9, seed=1,
    )  # fmt: skip
    assert answer.usage.completion_tokens == 3
    assert answer.choices[0].finish_reason == "length"


def test_an_airoboros_template_by_name(client):
    """It reaches the model, and what ends its turns ends the answer."""
    asked = {"model": MODEL, "messages": CHAT, "temperature": 0, "max_tokens": 30}
    own = client.chat.completions.create(**asked)
    airoboros = client.chat.completions.create(**asked, extra_body={"chat_template": "airoboros-m2.0"})
    assert airoboros.usage.prompt_tokens != own.usage.prompt_tokens
    assert "USER:" not in airoboros.choices[0].message.content


@pytest.mark.parametrize(
    "content", ["The capital of France is", [{"type": "text", "text": "The capital of France is"}]]
)
def test_the_last_message_can_be_continued(client, content):
    asked = {"model": MODEL, "temperature": 0, "max_tokens": 12}
    france = {"role": "user", "content": "What is the capital of France?"}
    begun = {"messages": [france, {"role": "assistant", "content": content}]}
    rest = client.chat.completions.create(**asked, **begun, extra_body={"continue_final_message": True})
    assert rest.choices[0].message.content.startswith(" Paris")
    alone = client.chat.completions.create(**asked, messages=[france])
    assert rest.usage.prompt_tokens == alone.usage.prompt_tokens + 5


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"continue_final_message": True}, None),
        ({"continue_final_message": True, "add_generation_prompt": True}, None),
        ({"use_beam_search": True}, None),
        ({"logits_processors": ["x"]}, None),
        ({"mirostat": 2}, None),
        ({"dry_multiplier": 0.8}, None),
        ({"web_search_options": {}}, None),
        ({"length_penalty": 0.5}, None),
        ({"prompt_logprobs": 1}, None),
        ({"echo": True}, None),
        ({"best_of": 3}, None),
        ({"documents": [{"title": "a"}]}, None),
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 7}}}}, "json_schema"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, None),
        ({"functions": [{"name": "f"}]}, None),
        ({"modalities": ["audio"]}, None),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"stop": [""]}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "a " * 3000}]}, None),
    ],
)
def test_what_cannot_be_asked_is_refused(client, extra, param):
    with pytest.raises(openai.BadRequestError) as error:
        client.post("/chat/completions", body={"model": MODEL, "messages": CHAT} | extra, cast_to=object)
    assert error.value.param == param, error.value.body


def test_too_long_a_prompt_has_openais_code(client):
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model=MODEL, prompt=[1] * 3000, stream=True)
    assert error.value.code == "context_length_exceeded"
