"""Sampling on the CPU by our own C: each row is done as soon as its token is known.

Finding all tokens that a constraint allows takes longest, and is done only where it must be. A greedy answer's token
is the likeliest of all where that is allowed, which nearly always is so. A drawn one is first drawn by temperature
alone, as if it were free. Let K be what top_p, top_k and min_p leave of what is allowed, and p(K) its probability: a
token x of K comes so with p(x), and otherwise, which is with 1 - p(K), from a second draw, within K:
p(x) + (1 - p(K)) p(x) / p(K) = p(x) / p(K). That a likely token is in K can be told without K (native/draw.h).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from halfbyte.engine.logit_edits import edit
from halfbyte.engine.random_numbers import keys, uniform
from halfbyte.errors import GenerationError
from halfbyte.kernels.draw import can_draw, draw_tokens
from halfbyte.kernels.likeliest import NOT_FINITE, likeliest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from halfbyte.engine.constraint import Constraint
    from halfbyte.engine.sampler_row import SamplerRow

AGAIN = 1 << 63  # on top of the seed for a second draw of the same step


def can_sample(row: SamplerRow) -> bool:
    """Whether the C can do what a row asks for: all but typical_p. It does not depend on the other rows."""
    return (row.greedy or row.params.typical_p >= 1.0) and can_draw()


def settle(logits: torch.Tensor, rows: Sequence[SamplerRow]) -> tuple[list[int], list[int]]:
    """The likeliest token of each row of float32 logits [B, V], or NOT_FINITE; and the rows whose token is another."""
    tokens: list[int] = likeliest(logits).tolist()
    return tokens, [i for i, row in enumerate(rows) if tokens[i] >= 0 and not _is_settled(row, tokens[i])]


def draw_left(
    logits: torch.Tensor, rows: Sequence[SamplerRow], steps: Sequence[int], tokens: list[int], left: list[int]
) -> None:
    """Put the tokens of the rows that `settle` left into `tokens`. logits are overwritten.

    NOT_FINITE where a constraint cannot be followed: the row's `problem` says it.
    """
    logits = logits.contiguous()  # those of a network in parts are not
    bound = {i: c for i in left if (c := rows[i].constraint_by_bits) is not None}
    edited = {i for i in left if rows[i].edits and not (i in bound and rows[i].is_only_constrained)}
    if edited:
        edit(logits, [row if i in edited else None for i, row in enumerate(rows)], bound)
    tried = {i for i in bound if not rows[i].greedy}
    drawn = _Drawing(logits, rows, steps)
    holds = drawn.free([i for i in left if i in tried or i not in bound], tried, tokens)
    drawn.bound({i: c for i, c in bound.items() if i not in holds or not c.takes(tokens[i])}, tried, tokens)


def _is_settled(row: SamplerRow, token: int) -> bool:
    """Whether the likeliest token is the one."""
    if not row.greedy or not row.edits:
        return row.greedy
    return row.is_only_constrained and row.constraint is not None and row.constraint.takes(token)


@dataclass(slots=True)
class _Drawing:
    """What draws tokens for some of the rows, and puts them into a list of all."""

    logits: torch.Tensor
    rows: Sequence[SamplerRow]
    steps: Sequence[int]

    def free(self, places: list[int], tried: set[int], tokens: list[int]) -> set[int]:
        """As if there were no constraints; those of `tried` by temperature alone. Gives those of them that hold."""
        if not places:
            return set()
        random = self._random(places, 0)
        trial = [i in tried for i in places]
        found, holds = draw_tokens(self.logits, places, self._numbers(places), random, trial=trial)
        for i, token in zip(places, found, strict=True):
            tokens[i] = token
        return {i for i, held in zip(places, holds, strict=True) if held}

    def bound(self, constraints: dict[int, Constraint], tried: set[int], tokens: list[int]) -> None:
        """Within constraints; what was tried is taken if it is among what is left."""
        allowed = {}
        for i, constraint in constraints.items():
            try:
                allowed[i] = constraint.allowed()
            except GenerationError as error:
                self.rows[i].problem, tokens[i] = error, NOT_FINITE
        if not allowed:
            return
        places = list(allowed)
        random = self._random(places, AGAIN)
        first = [tokens[i] if i in tried else -1 for i in places]
        found, _ = draw_tokens(
            self.logits, places, self._numbers(places), random, allowed=list(allowed.values()), first=first
        )
        for i, token in zip(places, found, strict=True):
            tokens[i] = token

    def _random(self, places: list[int], on_top: int) -> np.ndarray:
        drawn = keys([self.rows[i].seed ^ on_top for i in places], [self.steps[i] for i in places])
        return uniform(torch.from_numpy(drawn)).numpy()

    def _numbers(self, places: list[int]) -> np.ndarray:
        chosen = [self.rows[i] for i in places]
        return np.array([(0.0 if row.greedy else row.numbers[0], *row.numbers[1:4]) for row in chosen])
