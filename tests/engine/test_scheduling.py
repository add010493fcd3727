"""The engine driven at random: nothing leaks, nobody starves, and every answer is the one that is given alone."""

from __future__ import annotations

import random
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_network import ByteTokenizer, random_network, tiny_config

from halfbyte.checkpoint.config import RopeConfig
from halfbyte.engine import sampler
from halfbyte.engine.core import Engine
from halfbyte.engine.options import EngineOptions
from halfbyte.engine.sampling_params import SamplingParams

CONTEXT = 80
CONFIGS = {
    "plain": tiny_config(vocab_size=257, num_layers=2),
    "windows": tiny_config(vocab_size=257, num_layers=2, sliding_windows=(9, None)),
    "dynamic": tiny_config(
        vocab_size=257, num_layers=2, max_position_embeddings=24, rope=RopeConfig(rope_type="dynamic", factor=4.0)
    ),
}
PARAMS = [
    {"temperature": 0.0},
    {"temperature": 0.0, "repetition_penalty": 1.3, "presence_penalty": 0.4},
    {"temperature": 0.9, "top_k": 4, "seed": 1},
    {"temperature": 0.6, "top_p": 0.7, "frequency_penalty": 0.3, "seed": 2, "n": 2},
    {"temperature": 1.2, "min_p": 0.02, "seed": 3, "n": 3},
    {"temperature": 5.0, "top_p": 0.9, "seed": 4},  # often more than NUCLEUS candidates
    {"temperature": 0.0, "min_tokens": 4, "stop": ["ab", "z"]},
]
NUCLEUS = 8


@pytest.fixture(autouse=True, scope="module")
def _few_candidates():
    before = sampler.NUCLEUS
    sampler.NUCLEUS = NUCLEUS
    yield
    sampler.NUCLEUS = before


@cache
def network(name: str):
    return random_network(CONFIGS[name])


def engine_of(name: str, blocks: int = 200, **options) -> Engine:
    config = CONFIGS[name]
    block = 2 * config.num_layers * config.num_kv_heads * config.head_dim * 4 * 4
    return Engine(
        network(name), ByteTokenizer(), CONTEXT, EngineOptions(kv_cache=blocks * block, block_size=4, **options)
    )


def prompt(kind: int, length: int) -> list[int]:
    """Prompts of a kind begin alike, and repeat themselves."""
    return [(i * i * (kind + 1)) % 7 + 60 + kind for i in range(length)]


@cache
def alone(name: str, kind: int, length: int, params: int, tokens: int) -> dict[int, list[int]]:
    engine = engine_of(name, enable_prefix_caching=False)
    engine.add(prompt(kind, length), settings_of(params, tokens), 7)
    return drain(engine)["1"]


def settings_of(params: int, tokens: int) -> SamplingParams:
    given = PARAMS[params]
    return SamplingParams(max_tokens=tokens, **given | {"min_tokens": min(tokens, given.get("min_tokens", 0))})


def take(events, answers) -> None:
    for request, delta in events:
        answers.setdefault(request, {}).setdefault(delta.index, []).append(delta.token_id)


def drain(engine: Engine, answers=None) -> dict[str, dict[int, list[int]]]:
    answers = {} if answers is None else answers
    while engine.has_work:
        events = engine.step()
        assert events or engine.scheduler.running, "nothing moves"
        take(events, answers)
    return answers


requests = st.tuples(st.integers(0, 2), st.integers(1, 50), st.integers(0, len(PARAMS) - 1), st.integers(1, 25))
actions = st.lists(
    st.one_of(
        st.tuples(st.just("add"), requests, st.integers(-1, 1)),
        st.tuples(st.just("step"), st.integers(1, 6)),
        st.tuples(st.just("abort"), st.integers(0, 20)),
    ),
    max_size=25,
)
engines = st.fixed_dictionaries(
    {
        "blocks": st.sampled_from([20, 21, 25, 40, 200]),  # 20 hold one sequence of the whole context
        "max_num_seqs": st.sampled_from([1, 2, 8]),
        "max_num_batched_tokens": st.sampled_from([1, 3, 16, 100]),
        "enable_prefix_caching": st.booleans(),
        "speculative_tokens": st.sampled_from([0, 0, 3]),
    }
)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
@settings(deadline=None, max_examples=40)
@given(engines, actions)
def test_whatever_comes(name, overlap, options, todo):
    engine = engine_of(name, overlap=overlap, **options)
    asked: list[tuple[int, int, int, int]] = []
    answers, aborted = {}, set()
    for action in todo:
        if action[0] == "add":
            _, (kind, length, params, tokens), priority = action
            asked.append((kind, length, params, tokens))
            engine.add(prompt(kind, length), settings_of(params, tokens), 7, priority=priority)
        elif action[0] == "step":
            for _ in range(action[1]):
                take(engine.step(), answers)
        elif asked:
            victim = action[1] % len(asked) + 1
            aborted.add(str(victim))
            engine.abort(str(victim))
    drain(engine, answers)
    engine.scheduler.pool.check_idle()
    assert not engine.scheduler.running
    assert not engine.scheduler.waiting
    for number, request in enumerate(asked, start=1):
        ours, expected = answers.get(str(number), {}), alone(name, *request)
        if str(number) not in aborted:
            assert ours == expected
        for index, tokens in ours.items():
            assert expected[index][: len(tokens)] == tokens


@pytest.mark.parametrize("overlap", [False, True])
def test_preemption_happens_and_changes_nothing(overlap):
    engine = engine_of("plain", blocks=20, overlap=overlap)
    for kind in range(3):
        engine.add(prompt(kind, 20), settings_of(0, 25), 7)
    answers = drain(engine)
    assert engine.stats.preemptions > 0
    assert [answers[str(k + 1)] for k in range(3)] == [alone("plain", k, 20, 0, 25) for k in range(3)]


@pytest.mark.parametrize("overlap", [False, True])
def test_the_prefix_cache_is_used_and_changes_nothing(overlap):
    engine = engine_of("plain", overlap=overlap)
    for _ in range(2):
        engine.add(prompt(0, 41), settings_of(0, 9), 7)
        answers = drain(engine)
    assert engine.stats.cached_tokens == 40
    assert answers["2"] == alone("plain", 0, 41, 0, 9)


def test_what_was_used_longest_ago_is_evicted_first():
    engine = engine_of("plain", blocks=20)
    for kind in (0, 1, 0, 2):  # each takes 8 blocks; the third finds its own
        engine.add(prompt(kind, 29), settings_of(0, 1), 7)
        drain(engine)
    assert engine.stats.cached_tokens == 28
    before = engine.stats.cached_tokens
    engine.add(prompt(0, 29), settings_of(0, 1), 7)
    drain(engine)
    assert engine.stats.cached_tokens == before + 28, "1 went, not 0"


def test_a_higher_priority_goes_first_and_a_lower_one_is_not_forgotten():
    engine = engine_of("plain", blocks=20, max_num_seqs=1)
    for priority in (5, 5, -3, 0):
        engine.add(prompt(0, 30), settings_of(0, 3), 7, priority=priority)
    order = []
    while engine.has_work:
        order += [request for request, delta in engine.step() if delta.finish_reason]
    assert order == ["3", "4", "1", "2"]


def test_long_prompts_are_read_beside_single_tokens():
    engine = engine_of("plain", max_num_batched_tokens=10)
    engine.add(prompt(0, 5), settings_of(0, 20), 7)
    engine.step()
    engine.add(prompt(1, 40), settings_of(0, 5), 7)
    first_in_each = [[request for request, _ in engine.step()] for _ in range(5)]
    assert all("1" in receivers for receivers in first_in_each)
    assert first_in_each[4] == ["1", "2"]


def test_speculation_is_right_now_and_then():
    engine = engine_of("plain", speculative_tokens=4)
    engine.add(prompt(0, 30), SamplingParams(temperature=0, max_tokens=40, ignore_eos=True), 7)
    drain(engine)
    assert 0 < engine.stats.accepted_tokens <= engine.stats.drafted_tokens
    assert engine.stats.steps + engine.stats.accepted_tokens == 40


def soak(count: int, overlap: bool) -> Engine:
    rng = random.Random(0)
    engine = engine_of("plain", blocks=60, max_num_batched_tokens=64, max_num_seqs=16, overlap=overlap)
    done: set[str] = set()
    sent = stopped = 0
    while sent < count or engine.has_work:
        while sent < count and len(engine.requests) < 24:
            params = SamplingParams(max_tokens=rng.randint(1, 6), temperature=rng.choice([0, 1]), seed=sent)
            engine.add(prompt(rng.randrange(3), rng.randint(1, 30)), params, priority=rng.randint(0, 2))
            sent += 1
        done |= {request for request, delta in engine.step() if delta.finish_reason}
        while engine.requests and stopped < len(done) / 4:  # one in five
            engine.abort(rng.choice(list(engine.requests)))
            stopped += 1
    assert len(done) + stopped == count
    assert abs(stopped - count / 5) < count / 50
    engine.scheduler.pool.check_idle()
    return engine


@pytest.mark.parametrize("overlap", [False, True])
def test_a_short_soak_gives_all_memory_back(overlap):
    soak(300, overlap)


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [False, True])
def test_a_soak_of_10000_requests_gives_all_memory_back(overlap):
    soak(10_000, overlap)
