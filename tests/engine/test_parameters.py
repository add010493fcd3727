"""What each sampling parameter does, through the engine."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_network import ByteTokenizer, ScriptedNetwork, random_network, tiny_config
from tiny_repository import write_repository

from halfbyte import LLM, SamplingParams
from halfbyte.engine import sampler
from halfbyte.engine.core import Engine
from halfbyte.engine.random_numbers import exponential, keys, uniform
from halfbyte.engine.sampler_row import SamplerRow
from halfbyte.errors import GenerationError, RequestError


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return LLM(write_repository(tmp_path_factory.mktemp("tiny") / "model"))


def one(llm, prompt="Hello", **params):
    settings = {"temperature": 0, "max_tokens": 12, "ignore_eos": True} | params
    return llm.generate(prompt, SamplingParams(**settings))[0]


def test_allowed_tokens_and_bias(llm):
    allowed = {5, 70, 71}
    assert set(one(llm, allowed_token_ids=allowed).outputs[0].token_ids) <= allowed
    assert one(llm, logit_bias={str(llm.tokenizer.encode("A")[0]): 100.0}).outputs[0].text == "A" * 12
    assert 65 not in one(llm, logit_bias={65: -100}, temperature=3.0, max_tokens=200).outputs[0].token_ids
    for wrong in ({"allowed_token_ids": [257]}, {"logit_bias": {257: 1}}):
        with pytest.raises(RequestError, match="names token 257; ids are 0 to 256"):
            one(llm, **wrong)


def test_bad_words(llm):
    letters = llm.tokenizer.encode("abc")
    free = one(llm, allowed_token_ids=letters, repetition_penalty=1.9, min_tokens=12).outputs[0].text
    word = free[3:5]
    held = one(llm, allowed_token_ids=letters, repetition_penalty=1.9, min_tokens=12, bad_words=[word]).outputs[0].text
    assert word not in held
    first = free.index(word)
    assert held[: first + 1] == free[: first + 1]
    assert set(one(llm, allowed_token_ids=letters, bad_words=["a", "b"]).outputs[0].text) == {"c"}


def test_presence_and_frequency_penalty():
    network = ScriptedNetwork([65], 1)  # 50 for A, 25 for _
    for penalty, answer in (({"presence_penalty": 2.0}, "AAAA"), ({"frequency_penalty": 2.0}, "AAAA")):
        assert scripted(network, **penalty)[:4] == answer
    network.logits = lambda hidden: torch.zeros(len(hidden), 257).index_fill(1, torch.tensor([65]), 3.0)
    assert scripted(network, presence_penalty=2.0) == "A" * 8  # 3 - 2 > 0
    assert scripted(network, frequency_penalty=2.0)[:3] == "AA\0"  # 3 - 2 * 2 < 0


def scripted(network, **params) -> str:
    engine = Engine(network, ByteTokenizer(), 64)
    engine.add([1], SamplingParams(temperature=0, max_tokens=8, **params))
    text = ""
    while engine.has_work:
        text += "".join(delta.text for _, delta in engine.step())
    return text


def test_echo_and_truncation(llm):
    plain, echoed = one(llm, "Hello there"), one(llm, "Hello there", echo=True)
    assert echoed.outputs[0].text == "Hello there" + plain.outputs[0].text
    cut = one(llm, "Hello there", truncate_prompt_tokens=5)
    assert llm.tokenizer.decode(cut.prompt_token_ids) == "there"
    assert cut.outputs == one(llm, "there").outputs
    assert len(one(llm, "x" * 400, truncate_prompt_tokens=100).prompt_token_ids) == 100


def test_logprobs_are_the_networks_own(llm):
    output = one(llm, logprobs=3, temperature=0.8, top_k=2, seed=1, prompt_logprobs=2)
    answer, prompt = output.outputs[0], output.prompt_token_ids
    whole = torch.tensor(prompt + answer.token_ids)
    from halfbyte.models.attend import WholeSequences

    hidden = llm.network.forward(whole, torch.arange(len(whole)), WholeSequences(llm.network.config, 1))
    expected = llm.network.logits(hidden).log_softmax(-1)
    assert len(answer.logprobs) == len(answer.token_ids) == 12
    total = 0.0
    for place, (token, step) in enumerate(zip(answer.token_ids, answer.logprobs, strict=True), start=len(prompt) - 1):
        total += step[token].logprob
        assert next(iter(step)) == token
        assert len(step) in (3, 4)
        for other, found in step.items():
            assert found.logprob == pytest.approx(float(expected[place, other]), abs=1e-4)
            assert found.rank == int((expected[place] > expected[place, other]).sum()) + 1
    assert answer.cumulative_logprob == pytest.approx(total)
    assert output.prompt_logprobs[0] is None
    assert len(output.prompt_logprobs) == len(prompt)
    for place, (token, step) in enumerate(zip(prompt[1:], output.prompt_logprobs[1:], strict=True)):
        assert step[token].logprob == pytest.approx(float(expected[place, token]), abs=1e-4)
    assert one(llm).outputs[0].logprobs is None


def test_prompt_logprobs_in_chunks_and_beside_a_cached_prefix(tmp_path):
    folder = write_repository(tmp_path / "model")
    found = [
        one(
            LLM(folder, max_num_batched_tokens=chunk), "a long prompt in pieces " * 3, prompt_logprobs=1
        ).prompt_logprobs
        for chunk in (5, 512)
    ]
    assert found[0] == found[1]
    llm = LLM(folder)
    for _ in range(2):
        assert one(llm, "a long prompt in pieces " * 3, prompt_logprobs=1).prompt_logprobs == found[0]


def test_best_of_returns_the_likeliest(llm):
    drawn = one(llm, n=6, temperature=1.0, seed=3, logprobs=0).outputs
    best = one(llm, n=2, best_of=6, temperature=1.0, seed=3).outputs
    ranked = sorted(drawn, key=lambda answer: -answer.cumulative_logprob)
    assert [b.token_ids for b in best] == [r.token_ids for r in ranked[:2]]
    assert [b.index for b in best] == [0, 1]
    with pytest.raises(RequestError, match="a stream gives one answer"):
        llm.stream("a", SamplingParams(best_of=2))


@pytest.mark.parametrize("mass", [0.2, 0.6, 0.95])
def test_typical_tokens_are_transformers(mass, monkeypatch):
    from transformers import TypicalLogitsWarper

    logits = torch.randn(60, generator=torch.Generator().manual_seed(3)) * 2
    expected = TypicalLogitsWarper(mass)(None, logits[None].clone()).softmax(-1)[0].numpy()
    grid = 4000
    row = SamplerRow(SamplingParams(typical_p=mass), 0, [])
    key = torch.arange(grid)[:, None]
    columns = sampler.Columns(torch.tensor([row.numbers]).double().expand(grid, -1), key, False, may_wait=True)

    def evenly(ids, weights, _):  # in place of a race: each candidate as many rows as is its share
        sums = weights.cumsum(-1)
        return ids.gather(-1, torch.searchsorted(sums, (key + 0.5) / grid * sums[:, -1:], right=True))[:, 0]

    monkeypatch.setattr(sampler, "race", evenly)
    tokens = sampler.draw_typical(logits.expand(grid, -1).clone(), columns)
    assert np.abs(np.bincount(tokens.numpy(), minlength=60) / grid - expected).max() < 1.5 / grid


def test_uniform_numbers_are_uniform_and_belong_to_their_place():
    seeds, steps = [2**64 - 5, 0, 1, 2**64 - 1], [3, 0, 0, 7]
    together = keys(seeds, steps).tolist()
    assert together == [keys([s], [t]).item() for s, t in zip(seeds, steps, strict=True)]
    given = torch.from_numpy(keys(list(range(300)) * 100, [i for i in range(100) for _ in range(300)]))
    numbers = uniform(given).numpy()
    counts = np.histogram(numbers, bins=50, range=(0, 1))[0]
    assert ((counts - 600) ** 2 / 600).sum() < 86  # chi-square, 49 degrees, 1 in 1000
    grid = numbers.reshape(100, 300)
    assert abs(np.corrcoef(grid[:-1].ravel(), grid[1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(grid[:, :-1].ravel(), grid[:, 1:].ravel())[0, 1]) < 0.02


def test_waiting_times_are_exponential_and_belong_to_their_token():
    key = torch.from_numpy(keys(list(range(50)), [0] * 50))[:, None]
    tokens = torch.arange(600)[None]
    times = exponential(key, tokens)
    assert torch.equal(exponential(key[7:8], tokens[:, 90:93]), times[7:8, 90:93])
    numbers = (-times).exp().numpy()  # uniform
    counts = np.histogram(numbers, bins=50, range=(0, 1))[0]
    assert ((counts - 600) ** 2 / 600).sum() < 86  # chi-square, 49 degrees, 1 in 1000
    assert abs(np.corrcoef(numbers[:-1].ravel(), numbers[1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(numbers[:, :-1].ravel(), numbers[:, 1:].ravel())[0, 1]) < 0.02


def test_damage_ends_its_request_only_and_is_located():
    config = tiny_config(vocab_size=257)
    network = random_network(config)
    network.embedding = network.embedding.clone()
    network.embedding[200] = math.inf
    engine = Engine(network, ByteTokenizer(), 64)
    good = engine.add([1, 2, 3], SamplingParams(temperature=0, max_tokens=5, ignore_eos=True))
    bad = engine.add([1, 200, 3], SamplingParams(n=3, max_tokens=5))
    results = {good: [], bad: []}
    while engine.has_work:
        for request, result in engine.step():
            results[request].append(result)
    engine.scheduler.pool.check_idle()
    (error,) = results[bad]
    assert isinstance(error, GenerationError)
    assert "after 3 tokens, first in the embedding" in str(error)
    alone = Engine(network, ByteTokenizer(), 64)
    alone.add([1, 2, 3], SamplingParams(temperature=0, max_tokens=5, ignore_eos=True))
    expected = []
    while alone.has_work:
        expected += [delta for _, delta in alone.step()]
    assert results[good] == expected


def test_one_of_several_that_fails_does_not_take_the_others_with_it(llm, monkeypatch):
    embedding = llm.network.embedding.clone()
    embedding[llm.tokenizer.encode("#")] = math.nan
    monkeypatch.setattr(llm.network, "embedding", embedding)
    good, bad = llm.generate(["good", "b#d"], SamplingParams(temperature=0))
    assert (good.error, len(good.outputs)) == (None, 1)
    assert "first in the embedding" in str(bad.error)
    with pytest.raises(GenerationError, match="not finite"):
        llm.generate("b#d")


def test_embeddings_and_scores(llm):
    texts = ["one text", "another, longer text " * 4, "one text"]
    last = [o.embedding for o in llm.embed(texts)]
    mean = [o.embedding for o in llm.embed(texts, pooling="mean")]
    from halfbyte.models.attend import WholeSequences

    for text, tail, middle in zip(texts, last, mean, strict=True):
        ids = torch.tensor(llm.tokenizer.encode(text))
        hidden = llm.network.forward(ids, torch.arange(len(ids)), WholeSequences(llm.network.config, 1))
        assert (tail - hidden[-1]).abs().max() < 1e-4
        assert (middle - hidden.mean(0)).abs().max() < 1e-4
    assert torch.equal(last[0], last[2])
    scores = [s.score for s in llm.score("one text", texts, pooling="mean")]
    assert scores[0] == pytest.approx(1.0)
    assert scores[1] == pytest.approx(float(torch.cosine_similarity(mean[0], mean[1], 0)), abs=1e-5)
    with pytest.raises(RequestError, match="2 texts to score 3 against"):
        llm.score(["a", "b"], texts)
    with pytest.raises(RequestError, match="pooling is 'max'"):
        llm.embed("a", pooling="max")


def test_constrained_and_free_requests_share_a_batch(llm):
    free, held = SamplingParams(temperature=0), SamplingParams(temperature=0, regex="[ab]{6}")
    both = llm.generate(["Hello", "Hello"], [free, held])
    assert both[0].outputs == llm.generate("Hello", free)[0].outputs
    assert set(both[1].outputs[0].text) <= {"a", "b"}
