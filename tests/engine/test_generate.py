"""The loop for one request: what ends an answer, and which text is shown when."""

from __future__ import annotations

import math

import pytest
from one_sequence import OneSequence
from tiny_network import ByteTokenizer, ScriptedNetwork, random_network, tiny_config

from halfbyte.engine.collector import Collector
from halfbyte.engine.core import Engine
from halfbyte.engine.local import LocalEngine
from halfbyte.engine.sampling_params import SamplingParams
from halfbyte.errors import GenerationError, RequestError

EOS = 256


def answer(script, *, prompt=3, context=64, **params):
    """The deltas of a network that says `script`, which may hold texts and token ids."""
    tokens = [t for part in script for t in (part.encode() if isinstance(part, str) else [part])]
    engine = Engine(ScriptedNetwork(tokens, prompt, context), ByteTokenizer(), context)
    settings = {"temperature": 0, "max_tokens": 30} | params
    return list(stream(engine, [1] * prompt, SamplingParams(**settings)))


def stream(engine, prompt, params, seed=0):
    local = LocalEngine(engine)
    yield from local.stream(local.add(prompt, params, seed))
    engine.scheduler.pool.check_idle()


def complete(engine, prompt, params, seed):
    local, collector = LocalEngine(engine), Collector(None, prompt, params)
    request = local.add(prompt, params, seed)
    while not collector.finished:
        for delta in local.take(request):
            collector.add(delta)
    local.close(request)
    engine.scheduler.pool.check_idle()
    return collector.output().outputs


def ended(deltas):
    assert all(d.finish_reason is None for d in deltas[:-1])
    return "".join(d.text for d in deltas), len(deltas), deltas[-1].finish_reason, deltas[-1].stop_reason


def test_end_of_text():
    assert ended(answer(["Paris.", EOS])) == ("Paris.", 7, "stop", None)


def test_ignore_eos():
    assert ended(answer(["ab", EOS], ignore_eos=True, max_tokens=4)) == ("ab<end>a", 4, "length", None)


def test_max_tokens():
    assert ended(answer(["abcdef"], max_tokens=4)) == ("abcd", 4, "length", None)


def test_the_context_ends_it_when_max_tokens_does_not():
    assert ended(answer(["abcdef"], context=8, max_tokens=None)) == ("abcde", 5, "length", None)
    assert ended(answer(["abcdef"], context=8, max_tokens=100)) == ("abcde", 5, "length", None)


def test_stop_token_ids():
    assert ended(answer(["ab;cd"], stop_token_ids=[ord(";")])) == ("ab", 3, "stop", ord(";"))
    kept = answer(["ab;cd"], stop_token_ids=[ord(";")], include_stop_str_in_output=True)
    assert ended(kept) == ("ab;", 3, "stop", ord(";"))


def test_stop_strings_across_tokens():
    deltas = answer(["Paris.\nUSER: no"], stop=["\nUSER:"])
    assert ended(deltas) == ("Paris.", 12, "stop", "\nUSER:")
    assert [d.text for d in deltas[6:]] == [""] * 6
    kept = answer(["Paris.\nUSER: no"], stop="\nUSER:", include_stop_str_in_output=True)
    assert ended(kept) == ("Paris.\nUSER:", 12, "stop", "\nUSER:")


def test_stop_string_of_characters_of_several_bytes():
    assert ended(answer(["a€ü€", EOS], stop="ü€")) == ("a€", 9, "stop", "ü€")
    assert ended(answer(["a€üx", EOS], stop="ü€")) == ("a€üx", 8, "stop", None)


def test_what_was_held_back_comes_out_at_the_end():
    assert ended(answer(["ab\nUS", EOS], stop="\nUSER:")) == ("ab\nUS", 6, "stop", None)
    assert ended(answer(["ab\nUS..."], stop="\nUSER:", max_tokens=5)) == ("ab\nUS", 5, "length", None)


def test_half_a_character_is_shown_only_when_nothing_more_comes():
    deltas = answer(["a€"], max_tokens=3)
    assert [d.text for d in deltas] == ["a", "", "\ufffd"]


def test_a_stop_string_on_the_last_token_is_the_reason():
    assert ended(answer(["abc"], stop="c", max_tokens=3)) == ("ab", 3, "stop", "c")


def test_min_tokens_bans_what_would_end_it():
    deltas = answer([EOS], min_tokens=3, max_tokens=10)
    assert ended(deltas) == ("___", 4, "stop", None)
    deltas = answer([";"], min_tokens=2, stop_token_ids=[ord(";")])
    assert ended(deltas) == ("__", 3, "stop", ord(";"))


def test_min_tokens_exempts_stop_strings():
    assert ended(answer(["abcabc"], stop="ab", min_tokens=2)) == ("abc", 5, "stop", "ab")


def test_a_long_prompt_is_read_in_chunks():
    network = ScriptedNetwork([EOS], 1100, 2000)
    engine = Engine(network, ByteTokenizer(), 2000)
    assert len(list(stream(engine, [1] * 1100, SamplingParams()))) == 1
    assert network.passes == [512, 512, 76]


def test_prompts_that_cannot_be():
    engine = Engine(ScriptedNetwork([EOS], 3), ByteTokenizer(), 64)
    with pytest.raises(RequestError, match=r"prompt has 65 tokens and the context is 64"):
        engine.add([1] * 65, SamplingParams())
    with pytest.raises(RequestError, match=r"at most 63 tokens of prompt"):
        engine.add([1] * 64, SamplingParams())
    with pytest.raises(RequestError, match="empty"):
        engine.add([], SamplingParams())
    with pytest.raises(RequestError, match=r"token 1 of the prompt is 257; ids are 0 to 256"):
        engine.add([1, 257], SamplingParams())
    assert len(list(stream(engine, [1] * 63, SamplingParams(ignore_eos=True)))) == 1


def test_logits_that_are_not_finite_are_an_error():
    class Broken(ScriptedNetwork):
        def logits(self, hidden):
            logits = super().logits(hidden)
            if hidden[-1, 0] == 4:
                logits[0, 7] = math.nan
            return logits

    deltas = stream(Engine(Broken([65], 3), ByteTokenizer(), 64), [1, 2, 3], SamplingParams())
    assert [next(deltas).text, next(deltas).text] == ["A", "A"]
    with pytest.raises(GenerationError, match="not finite after 5 tokens"):
        next(deltas)


def test_it_may_be_closed_at_any_moment():
    network = ScriptedNetwork([65], 3)
    deltas = stream(Engine(network, ByteTokenizer(), 64), [1, 2, 3], SamplingParams(max_tokens=50))
    next(deltas)
    next(deltas)
    deltas.close()
    assert network.passes == [3, 1]


def test_n_answers_read_the_prompt_once_and_equal_each_alone():
    config = tiny_config(vocab_size=257)
    network = random_network(config)
    engine = Engine(network, ByteTokenizer(), 256)
    passes = []
    forward = network.forward
    network.forward = lambda tokens, *rest: passes.append(len(tokens)) or forward(tokens, *rest)
    prompt = list(b"Hello, my name is")
    params = SamplingParams(n=4, max_tokens=12, top_k=50, repetition_penalty=1.1, ignore_eos=True)
    outputs = complete(engine, prompt, params, seed=11)
    assert passes == [17, 3 + 1] + [4] * 10 + [3]  # one block of the prompt is shared, its last token is not in it
    assert [o.index for o in outputs] == [0, 1, 2, 3]
    assert len({tuple(o.token_ids) for o in outputs}) == 4
    alone = SamplingParams(max_tokens=12, top_k=50, repetition_penalty=1.1, ignore_eos=True)
    for i, output in enumerate(outputs):
        assert complete(engine, prompt, alone, seed=11 + i)[0].token_ids == output.token_ids


def test_greedy_is_the_likeliest_token_of_each_whole_pass():
    config = tiny_config(vocab_size=257)
    network = random_network(config)
    prompt = list(b"The capital")
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    (output,) = complete(Engine(network, ByteTokenizer(), 256), prompt, params, 0)
    for i, token in enumerate(output.token_ids):
        so_far = prompt + output.token_ids[:i]
        assert int(OneSequence(network, 256).next_logits(so_far).argmax()) == token
