"""Which replica a prompt goes to."""

from __future__ import annotations

import random

from halfbyte.engine.prefix_router import ALLOWANCE, FACTOR, PrefixRouter

IDLE = {0: 0, 1: 0, 2: 0}
SYSTEM = list(range(1000, 1160))  # ten blocks


def test_without_a_known_beginning_the_idlest_is_taken():
    router = PrefixRouter()
    assert router.choose([1] * 100, {0: 2, 1: 1, 2: 3}) == 1
    assert router.choose([2] * 100, IDLE) == 0
    assert router.choose([3] * 5, {1: 0, 2: 0}) == 1, "less than a block, and 0 is not up"


def test_a_conversation_stays_where_it_was_read():
    router = PrefixRouter()
    first = router.choose(SYSTEM, {0: 1, 1: 0, 2: 1})
    longer = [*SYSTEM, *range(50)]
    assert first == 1
    assert router.choose(longer, {0: 0, 1: 3, 2: 0}) == 1
    assert router.matched_tokens(1, [*longer, 7]) == 208, "whole blocks only"
    assert router.matched_tokens(0, longer) == 0


def test_the_longest_beginning_wins():
    router = PrefixRouter()
    router.choose(SYSTEM[:32], {0: 0, 1: 9})
    router.choose(SYSTEM[:96], {0: 99, 1: 0})
    assert router.choose(SYSTEM, {0: 0, 1: 2}) == 1
    assert router.choose([*SYSTEM[:32], *[5] * 64], {0: 0, 1: 2}) == 0, "both have two blocks of it"
    assert router.choose([5, *SYSTEM], {0: 3, 1: 2}) == 1, "one token before it, and nothing matches"


def test_a_much_shorter_queue_wins():
    router = PrefixRouter()
    assert router.choose(SYSTEM, {0: 0, 1: 5}) == 0
    assert router.choose(SYSTEM, {0: FACTOR * 5 + ALLOWANCE, 1: 5}) == 0
    assert router.choose(SYSTEM, {0: FACTOR * 5 + ALLOWANCE + 1, 1: 5}) == 1
    assert router.choose(SYSTEM, {0: 6, 1: 5}) == 1, "both know it now"


def test_adapters_share_nothing():
    router = PrefixRouter()
    assert router.choose(SYSTEM, {0: 0, 1: 1}, adapter="a") == 0
    assert router.choose(SYSTEM, {0: 1, 1: 0}) == 1
    assert router.choose(SYSTEM, {0: 1, 1: 0}, adapter="a") == 0


def test_what_a_cache_has_dropped_is_forgotten():
    router = PrefixRouter()
    router.resize(0, 12)
    router.choose(SYSTEM, {0: 0})
    router.choose([7] * 48, {0: 0})
    assert router.matched_tokens(0, [7] * 48) == 48
    assert router.matched_tokens(0, SYSTEM) == 144, "its end went first"
    router.forget(0)
    assert router.matched_tokens(0, SYSTEM) == 0


def test_equal_prompts_are_spread_when_they_come_at_once():
    router, loads = PrefixRouter(), {0: 0, 1: 0}
    for _ in range(16):
        loads[router.choose(SYSTEM, loads)] += 1
    assert max(loads.values()) - min(loads.values()) <= ALLOWANCE + 1, loads


def test_any_loads_are_kept_within_the_allowance():
    rng, router, loads = random.Random(0), PrefixRouter(), {0: 0, 1: 0, 2: 0}
    for _ in range(500):
        loads[router.choose([rng.randrange(3)] * 64, loads)] += 1
        if rng.random() < 0.9:
            busiest = max(loads, key=lambda replica: loads[replica])
            loads[busiest] = max(0, loads[busiest] - 1)
        assert max(loads.values()) <= min(loads.values()) * FACTOR + ALLOWANCE + 1
