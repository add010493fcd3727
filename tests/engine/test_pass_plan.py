"""What a pass's plan says of its sequences, beside where their tokens lie."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from halfbyte.engine.block_tables import BlockTables
from halfbyte.engine.pass_plan import plan_pass
from halfbyte.engine.scheduler import Scheduled

BLOCK = 16


def planned(*parts):
    """A plan for sequences with `count` tokens from their token `first` on."""
    tables, batch = BlockTables(), []
    for first, count in parts:
        place = tables.take()
        tables.write(place, 0, range(100 * place, 100 * place + -(-(first + count) // BLOCK)))
        tokens = list(range(first + count))
        sequence = SimpleNamespace(token_ids=tokens, draft=[], place=place, prompt_length=len(tokens), lane=0)
        batch.append(Scheduled(sequence, first, count))
    return plan_pass(batch, tables, BLOCK, needs_lengths=False)


@pytest.mark.parametrize(
    ("parts", "singles", "fresh"),
    [
        ([(0, 5), (0, 40)], (0, 0), (2, 0, 40)),
        ([(7, 1), (90, 1), (64, 20), (0, 33), (0, 1)], (2, 91), (2, 22, 33)),
        ([(7, 1), (0, 3)], (1, 8), (1, 1, 3)),
        ([(0, 9), (32, 4)], (0, 0), (0, 13, 0)),
        ([(3, 1), (90, 1)], (0, 0), (0, 0, 0)),
    ],
    ids=["all fresh", "all kinds", "one of each", "a past last", "decoding alone"],
)
def test_who_has_one_token_and_who_has_no_past(parts, singles, fresh):
    plan = planned(*parts)
    assert (plan.singles, plan.singles_context) == singles
    assert (plan.fresh, plan.fresh_start, plan.fresh_longest) == fresh
    assert plan.query_start.tolist() == [sum(count for _, count in parts[:i]) for i in range(len(parts) + 1)]
