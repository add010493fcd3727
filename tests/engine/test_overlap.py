"""A pass is launched before the tokens of the last are known, and nothing but the time it takes changes."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_network import ByteTokenizer, ScriptedNetwork, random_network, tiny_config

from halfbyte.engine import flight, sampler
from halfbyte.engine.core import Engine
from halfbyte.engine.options import EngineOptions
from halfbyte.engine.sampling_params import SamplingParams
from halfbyte.errors import GenerationError

EOS = 256
ON, OFF = EngineOptions(overlap=True), EngineOptions(overlap=False)


def drain(engine: Engine) -> dict[str, list]:
    results = {}
    while engine.has_work:
        for request, result in engine.step():
            results.setdefault(request, []).append(result)
    engine.scheduler.pool.check_idle()
    return results


def said(engine: Engine) -> dict[str, str]:
    return {request: "".join(delta.text for delta in deltas) for request, deltas in drain(engine).items()}


@pytest.fixture
def order(monkeypatch):
    """What happened: passes by their number of tokens, "read" where the host took the tokens."""
    happened = []
    forward, read = ScriptedNetwork.forward, flight.Drawn.read
    monkeypatch.setattr(ScriptedNetwork, "forward", lambda *args: happened.append(len(args[1])) or forward(*args))
    monkeypatch.setattr(flight.Drawn, "read", lambda self: happened.append("read") or read(self))
    return happened


def test_the_next_pass_is_launched_first(order):
    engine = Engine(ScriptedNetwork([65], 3), ByteTokenizer(), 64, ON)
    engine.add([1, 2, 3], SamplingParams(temperature=0, max_tokens=4))
    assert said(engine) == {"1": "AAAA"}
    assert order == [3, 1, "read", 1, "read", 1, "read", "read"], "the last token's pass is the last one"


def test_without_it_each_pass_waits(order):
    engine = Engine(ScriptedNetwork([65], 3), ByteTokenizer(), 64, OFF)
    engine.add([1, 2, 3], SamplingParams(temperature=0, max_tokens=4))
    assert said(engine) == {"1": "AAAA"}
    assert order == [3, "read", 1, "read", 1, "read", 1, "read"]


def test_it_is_off_on_a_cpu():
    assert not Engine(ScriptedNetwork([65], 3), ByteTokenizer(), 64).overlap


def test_a_token_behind_the_end_is_thrown_away(order):
    engine = Engine(ScriptedNetwork([65, 66, EOS, 67], 3), ByteTokenizer(), 64, ON)
    engine.add([1, 2, 3], SamplingParams(temperature=0, max_tokens=30))
    assert [delta.token_id for delta in drain(engine)["1"]] == [65, 66, EOS]
    assert order == [3, 1, "read", 1, "read", 1, "read"], "one pass for nothing, which nobody waits for"
    engine.add([1, 2, 3], SamplingParams(temperature=0, max_tokens=30, stop="B"))
    assert said(engine) == {"2": "A"}


def test_the_context_is_never_passed():
    engine = Engine(ScriptedNetwork([65], 3, 64), ByteTokenizer(), 64, ON)
    engine.add([1] * 60, SamplingParams(temperature=0, max_tokens=None))
    assert said(engine) == {"1": "A" * 4}


@pytest.mark.parametrize(
    "special",
    [
        {"repetition_penalty": 1.2}, {"logprobs": 1}, {"regex": "A+"}, {"min_tokens": 6}, {"bad_words": ["z"]},
        {"logit_bias": {5: 1.0}}, {"allowed_token_ids": [65, 66]}, {"prompt_logprobs": 0},
    ],
    ids=str,
)  # fmt: skip
def test_what_the_host_must_see_first_is_waited_for(special):
    engine = Engine(ScriptedNetwork([65], 3), ByteTokenizer(), 64, ON)
    engine.constraints.start = lambda params: Anything() if params.regex else None
    engine.constraints.check = lambda params: None
    engine.add([1, 2, 3], SamplingParams(temperature=0, max_tokens=8, ignore_eos="min_tokens" not in special))
    engine.add([1, 2, 3], SamplingParams(temperature=0, max_tokens=6, **special))
    steps = 0
    while "2" in engine.requests:
        assert engine._flight is None, "a pass was launched too early"
        engine.step()
        steps += 1
    assert steps == 6
    engine.step()
    assert engine.requests
    assert engine._flight is not None, "free again"
    drain(engine)


class Anything:
    finished = False

    def forbidden(self):
        return torch.zeros(257, dtype=torch.uint8).numpy()

    def takes(self, token):
        return True

    def accept(self, token):
        pass


@pytest.mark.parametrize("nucleus", [1, 3, 256])
def test_a_nucleus_that_is_wider_than_thought(monkeypatch, nucleus):
    monkeypatch.setattr(sampler, "NUCLEUS", nucleus)
    monkeypatch.setattr(sampler, "can_sample", lambda rows: False)  # as on a GPU, where a token can be left open
    network, answers = random_network(tiny_config(vocab_size=257)), []
    voids = []
    decide = Engine._decide
    monkeypatch.setattr(Engine, "_decide", lambda *args: voids.append(1) or decide(*args))
    for options in (OFF, ON):
        engine = Engine(network, ByteTokenizer(), 256, options)
        for i in range(4):
            params = SamplingParams(temperature=1.0 + i, top_p=0.9, max_tokens=20, ignore_eos=True)
            engine.add([i + 1] * 5, params, seed=i)
        answers.append(drain(engine))
    assert answers[0] == answers[1]
    assert bool(voids) == (nucleus < 256)


def test_damage_ends_its_request_only():
    network, results = random_network(tiny_config(vocab_size=257)), []
    network.embedding = network.embedding.clone()
    network.embedding[200] = math.inf
    for options in (OFF, ON):
        engine = Engine(network, ByteTokenizer(), 64, options)
        engine.add([1, 2, 3], SamplingParams(temperature=0, max_tokens=9, ignore_eos=True))
        engine.step()
        engine.add([1, 200, 3], SamplingParams(n=3, max_tokens=5))
        results.append(drain(engine))
    assert results[0]["1"] == results[1]["1"]
    (error,) = results[1]["2"]
    assert isinstance(error, GenerationError)
    assert str(error) == str(results[0]["2"][0])


def test_an_id_may_be_taken_again_while_its_last_pass_is_under_way():
    engine = Engine(ScriptedNetwork([65, 66, 67], 3), ByteTokenizer(), 64, ON)
    engine.add([1] * 5, SamplingParams(temperature=0, max_tokens=9), request_id="other")
    engine.add([1, 2, 3], SamplingParams(temperature=0, max_tokens=9), request_id="x")
    engine.step()
    engine.abort("x")
    engine.add([1, 2, 3, 4], SamplingParams(temperature=0, max_tokens=3), request_id="x")
    assert said(engine)["x"] == "BCA"


def test_an_interrupt_loses_nothing():
    class Interrupted(ScriptedNetwork):
        def forward(self, *args):
            hidden = super().forward(*args)
            if len(self.passes) in (3, 6):
                raise KeyboardInterrupt
            return hidden

    engine = Engine(Interrupted([65, 66, 67], 3), ByteTokenizer(), 64, ON)
    engine.add([1, 2, 3], SamplingParams(temperature=0, max_tokens=9))
    text = ""
    while engine.has_work:
        try:
            text += "".join(delta.text for _, delta in engine.step())
        except KeyboardInterrupt:
            text += "|"
    assert text.count("|") == 2
    assert text.replace("|", "") == "ABCABCABC"
    engine.scheduler.pool.check_idle()
