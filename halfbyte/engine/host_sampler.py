"""Sampling on the CPU by our own C: each row is done as soon as its token is known.

A greedy answer's token is the likeliest of all where a constraint allows it, which nearly always is so; what else is
allowed is looked for only where it is not. An answer drawn from the whole distribution (no top_p, top_k, min_p) is
first drawn as if it were free. With p(A) the probability of what is allowed, a token x of A comes so with p(x), and
otherwise, which is with 1 - p(A), from a second draw, within A: p(x) + (1 - p(A)) p(x) / p(A) = p(x) / p(A).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from halfbyte.engine.logit_edits import edit
from halfbyte.engine.random_numbers import uniform
from halfbyte.errors import GenerationError
from halfbyte.kernels.draw import can_draw, draw_tokens
from halfbyte.kernels.likeliest import NOT_FINITE, likeliest

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from halfbyte.engine.constraint import Constraint
    from halfbyte.engine.sampler_row import SamplerRow

AGAIN = 1 << 63  # on top of the seed for a second draw of the same step


def can_sample(rows: Sequence[SamplerRow]) -> bool:
    """Whether the C can do what each row asks for: all but typical_p."""
    return all(row.greedy or row.params.typical_p >= 1.0 for row in rows) and can_draw()


def sample_here(logits: torch.Tensor, rows: Sequence[SamplerRow], steps: Sequence[int]) -> list[int]:
    """A token for each row of float32 logits [B, V], which are overwritten; NOT_FINITE where one was not finite.

    So also where a constraint cannot be followed: the row's `problem` says it.
    """
    tokens: list[int] = likeliest(logits).tolist()
    left = [i for i, row in enumerate(rows) if tokens[i] >= 0 and not _is_settled(row, tokens[i])]
    if not left:
        return tokens
    bound = {i: c for i in left if (c := rows[i].constraint_by_bits) is not None}
    edited = {i for i in left if rows[i].edits and not (i in bound and rows[i].is_only_constrained)}
    if edited:
        edit(logits, [row if i in edited else None for i, row in enumerate(rows)], bound)
    free = [i for i in left if i not in bound or rows[i].is_drawn_from_all]
    _draw(logits, rows, steps, tokens, free, {})
    refused = [i for i in bound if not rows[i].is_drawn_from_all or not bound[i].allows(tokens[i])]
    _draw(logits, rows, steps, tokens, refused, bound)
    return tokens


def _is_settled(row: SamplerRow, token: int) -> bool:
    """Whether the likeliest token is the one."""
    if not row.greedy or not row.edits:
        return row.greedy
    return row.is_only_constrained and row.constraint is not None and row.constraint.allows(token)


def _draw(
    logits: torch.Tensor,
    rows: Sequence[SamplerRow],
    steps: Sequence[int],
    tokens: list[int],
    places: list[int],
    bound: dict[int, Constraint],
) -> None:
    """Put into `tokens` what is drawn for the rows at these places."""
    allowed = []
    for i in places:
        try:
            allowed.append(bound[i].allowed() if i in bound else 0)
        except GenerationError as error:
            rows[i].problem, tokens[i] = error, NOT_FINITE
    places = [i for i in places if tokens[i] >= 0]
    if not places:
        return
    chosen = [rows[i] for i in places]
    numbers = np.array([(0.0 if row.greedy else row.numbers[0], *row.numbers[1:4]) for row in chosen])
    seeds = [row.seed ^ AGAIN if bound and row.is_drawn_from_all else row.seed for row in chosen]
    random = uniform(seeds, [steps[i] for i in places])
    for i, token in zip(places, draw_tokens(logits, places, allowed, numbers, random), strict=True):
        tokens[i] = token
