"""Embeddings through OpenAI's client, which asks for base64 unless told otherwise."""

from __future__ import annotations

import math

import openai
import pytest

MODEL = "smol"
TEXTS = ["A cat sits on the mat.", "The stock market fell."]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_both_encodings_hold_the_same_unit_vectors(client, server):
    packed = client.embeddings.create(model=MODEL, input=TEXTS)
    plain = client.embeddings.create(model=MODEL, input=TEXTS, encoding_format="float")
    assert [one.index for one in plain.data] == [0, 1]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert len(one.embedding) == 576
        assert one.embedding == pytest.approx(other.embedding, abs=1e-3)  # another batch shape may round otherwise
        assert math.sqrt(sum(x * x for x in one.embedding)) == pytest.approx(1, abs=1e-5)
    encode = server.models.first.tokenizer.encode
    assert plain.usage.prompt_tokens == plain.usage.total_tokens == sum(len(encode(text)) for text in TEXTS)


def test_token_ids_give_what_their_text_gives(client, server):
    ids = [server.models.first.tokenizer.encode(text) for text in TEXTS]
    from_ids = client.embeddings.create(model=MODEL, input=ids).data
    from_texts = client.embeddings.create(model=MODEL, input=TEXTS).data
    for one, other in zip(from_ids, from_texts, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-3)
    (one,) = client.embeddings.create(model=MODEL, input=ids[0]).data
    assert one.embedding == pytest.approx(from_ids[0].embedding, abs=1e-3)


def test_the_mean_is_another_vector(client):
    last = client.embeddings.create(model=MODEL, input=TEXTS[0]).data[0].embedding
    mean = client.embeddings.create(model=MODEL, input=TEXTS[0], extra_body={"pooling": "mean"}).data[0].embedding
    assert sum(x * y for x, y in zip(last, mean, strict=True)) < 0.999


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"dimensions": 64}, None),
        ({"input": []}, "input"),
        ({"input": [1, "a"]}, "input"),
        ({"input": [[]]}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"input": [7] * 3000}, None),
    ],
)
def test_what_cannot_be_asked_is_refused(client, extra, param):
    with pytest.raises(openai.BadRequestError) as error:
        client.post("/embeddings", body={"model": MODEL, "input": "a"} | extra, cast_to=object)
    assert error.value.param == param, error.value.body
