"""From logits to tokens, for a batch of requests that each have parameters and a seed of their own.

A row's token depends on nothing but the row: what is drawn for a seed is the same alone and in any batch. Probabilities
are taken in float64; where sums of them decide, they are in whole steps, so that sums are exact in any order. `draw`
works on the device and does not wait for it.

A token is drawn by a race: each candidate has a random time to wait, on average the shorter the likelier it is, and the
first one wins. Its time follows from the seed, the step and the token: so another order of candidates, or a last bit in
one's probability, changes the answer only where two come in at nearly the same time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from halfbyte.engine.host_sampler import can_sample, draw_left, settle
from halfbyte.engine.logit_edits import edit
from halfbyte.engine.random_numbers import exponential, keys, uniform
from halfbyte.engine.transfer import upload
from halfbyte.kernels.inference import without_gradients
from halfbyte.kernels.likeliest import NOT_FINITE, likeliest

if TYPE_CHECKING:
    from halfbyte.engine.sampler_row import SamplerRow
    from halfbyte.engine.sampling_params import SamplingParams

NUCLEUS = 256  # candidates that top_p tries before looking for how many it needs
STEPS = 2.0**35  # of the likeliest token's weight: sums over 2**17 tokens are exact in float64
DAMAGED, UNDECIDED = (
    NOT_FINITE,
    -2,
)  # in place of a token: a logit was not finite; it takes waiting for the device to tell


@dataclass(slots=True)
class Columns:
    """The rows' parameters: float64 [B, 5] as SamplerRow.numbers has them."""

    numbers: torch.Tensor
    key: torch.Tensor  # int64 [B, 1], random: see random_numbers
    has_min_p: bool
    may_wait: bool

    def __getitem__(self, place: int) -> torch.Tensor:
        return self.numbers[:, place : place + 1]


TEMPERATURE, TOP_P, TOP_K, MIN_P, TYPICAL_P = range(5)

Draw = Callable[[torch.Tensor, Columns], torch.Tensor]  # logits [B, V] -> tokens [B]


@without_gradients
def sample(logits: torch.Tensor, rows: Sequence[SamplerRow]) -> list[int | None]:
    """A token for each row of float32 logits [B, V], which are overwritten; None where a logit was not finite.

    In vLLM's order: allowed and banned tokens, constraints, logit_bias, penalties, temperature, min_p, top_k, top_p,
    and then typical_p.
    """
    steps = [row.step for row in rows]
    if logits.device.type == "cpu":
        return [None if token < 0 else token for token in draw_here(logits, rows, steps)]
    return [None if token < 0 else token for token in _drawn(logits, rows, steps, may_wait=True).tolist()]


@without_gradients
def draw(
    logits: torch.Tensor, rows: Sequence[SamplerRow], steps: Sequence[int], *, may_wait: bool = False
) -> torch.Tensor:
    """Tokens [B] on the device, DAMAGED or UNDECIDED among them, for rows that are at these steps; logits as above.

    may_wait: none is to be UNDECIDED.
    """
    if logits.device.type == "cpu" and any(can_sample(row) for row in rows):
        return torch.tensor(draw_here(logits, rows, steps))
    return _drawn(logits, rows, steps, may_wait=may_wait)


def draw_here(logits: torch.Tensor, rows: Sequence[SamplerRow], steps: Sequence[int]) -> list[int]:
    """The same on the CPU, where there is nothing to wait for: none is UNDECIDED.

    Each row is drawn in C or in torch as it asks for, whatever its company.
    """
    tokens, left = settle(logits, rows)
    here: list[int] = []
    others: list[int] = []
    for i in left:
        (here if can_sample(rows[i]) else others).append(i)
    if here:
        draw_left(logits, rows, steps, tokens, here)
    if others:
        own, their_steps = [rows[i] for i in others], [steps[i] for i in others]
        found = _drawn(logits[others], own, their_steps, may_wait=True).tolist()
        for i, token in zip(others, found, strict=True):
            tokens[i] = token
    return tokens


def _drawn(logits: torch.Tensor, rows: Sequence[SamplerRow], steps: Sequence[int], *, may_wait: bool) -> torch.Tensor:
    finite = _finite(logits)
    if any(row.edits for row in rows):
        edit(logits, rows)
    return _draw(logits, rows, steps, may_wait=may_wait).where(finite, DAMAGED)


def may_be_undecided(rows: Sequence[SamplerRow]) -> bool:
    """Whether `draw`, which has seen these rows, may have given UNDECIDED for one."""
    return any(row.way is draw_nucleus for row in rows)


def first_of_largest(logits: torch.Tensor) -> torch.Tensor:
    """Index of each row's largest value, the lowest of equals. numpy's takes 6 µs for 49152 values, torch's 87."""
    return torch.from_numpy(logits.numpy().argmax(-1)) if logits.device.type == "cpu" else logits.argmax(-1)


def _finite(logits: torch.Tensor) -> torch.Tensor:
    if logits.device.type == "cpu":
        return likeliest(logits) >= 0
    return logits.sum(-1).isfinite()  # the sum is finite if all are


def _draw(logits: torch.Tensor, rows: Sequence[SamplerRow], steps: Sequence[int], *, may_wait: bool) -> torch.Tensor:
    groups = _grouped(rows, logits.shape[1])
    tokens: torch.Tensor | None = None
    for way, members in groups.items():
        chosen = [rows[i] for i in members]
        numbers = np.array([row.numbers for row in chosen], dtype=np.float64)
        random = keys([row.seed for row in chosen], [steps[i] for i in members])[:, None]
        where, given, drawn = upload([np.array(members), numbers, random], logits.device)
        columns = Columns(given, drawn, bool(numbers[:, MIN_P].any()), may_wait)
        if len(members) == len(rows):
            return way(logits, columns)
        tokens = first_of_largest(logits) if tokens is None else tokens
        tokens[where] = way(logits[where], columns)
    return first_of_largest(logits) if tokens is None else tokens


def _grouped(rows: Sequence[SamplerRow], vocabulary: int) -> dict[Draw, list[int]]:
    """Rows to draw for, by the way of drawing; a row's own parameters alone decide on it."""
    groups = defaultdict(list)
    for i, row in enumerate(rows):
        if not row.greedy:
            if row.way is None:
                row.way = _way(row.params, vocabulary)
            groups[row.way].append(i)
    return groups


def _way(p: SamplingParams, vocabulary: int) -> Draw:
    if p.typical_p < 1.0:
        return draw_typical
    if p.top_k > 0:
        # a power of two: few ways, large groups; over top_k, so that equals of the last one are seen
        return _top_k(min(vocabulary, 1 << p.top_k.bit_length()))
    return draw_any if p.top_p == 1.0 else draw_nucleus


def draw_any(logits: torch.Tensor, columns: Columns) -> torch.Tensor:
    """From the whole vocabulary, without sorting it.

    On the CPU not by a race: 49152 numbers would take three times as long as the rest, and a row's logits are there the
    same in any batch.
    """
    weights = _weights(logits, logits.amax(-1, keepdim=True), columns)
    if logits.device.type != "cpu":
        return race(torch.arange(logits.shape[1], device=logits.device)[None], weights, columns)
    cumulative = weights.cumsum(-1)
    return _invert(cumulative, uniform(columns.key) * cumulative[:, -1:])[:, 0]


@cache
def _top_k(width: int) -> Draw:
    """From each row's top_k likeliest; no top_k is over `width`."""

    def draw_top_k(logits: torch.Tensor, columns: Columns) -> torch.Tensor:
        best, ids = logits.topk(width)
        last = columns[TOP_K].long().clamp(max=width) - 1
        weights = _weights(best, best[:, :1], columns) * (best >= best.gather(-1, last))  # of equals all
        return _draw_sorted(ids, weights, _in_steps(weights).sum(-1, keepdim=True), columns)

    return draw_top_k


def draw_nucleus(logits: torch.Tensor, columns: Columns) -> torch.Tensor:
    """From each row's top_p (arXiv:1904.09751); sorts no more of the vocabulary than that takes."""
    vocabulary = logits.shape[1]
    best, ids = logits.topk(min(NUCLEUS, vocabulary))
    steps = _in_steps(_weights(logits, best[:, :1], columns))
    mass, top_p = steps.sum(-1, keepdim=True), columns[TOP_P]
    weights = _weights(best, best[:, :1], columns)
    short = _in_steps(weights).sum(-1, keepdim=True) < mass * top_p
    tokens = _draw_sorted(ids, weights, mass, columns)
    if not columns.may_wait:
        return tokens.masked_fill_(short[:, 0], UNDECIDED)
    if not bool(short.any()):
        return tokens
    # tokens under this weight add up to less than what top_p leaves out, so none of them can be in
    needed = (steps >= mass * (1 - top_p) / vocabulary).sum(-1, keepdim=True)
    best, ids = logits.topk(int((needed * short).max()))
    more = _draw_sorted(ids, _weights(best, best[:, :1], columns), mass, columns)
    return torch.where(short[:, 0], more, tokens)


def draw_typical(logits: torch.Tensor, columns: Columns) -> torch.Tensor:
    """From the most typical (arXiv:2202.00666) of what min_p, top_k and top_p leave; sorts the vocabulary."""
    weights, ids = _weights(logits, logits.amax(-1, keepdim=True), columns).sort(dim=-1, descending=True, stable=True)
    places = torch.arange(logits.shape[1], device=logits.device)
    weights *= (places < columns[TOP_K]) | (columns[TOP_K] <= 0)
    before = weights.cumsum(-1) - weights
    weights *= before < weights.sum(-1, keepdim=True) * columns[TOP_P]
    probabilities = weights / weights.sum(-1, keepdim=True)
    surprise = -probabilities.log()
    entropy = torch.where(probabilities > 0, probabilities * surprise, 0.0).sum(-1, keepdim=True)
    order = (surprise - entropy).abs().sort(dim=-1, stable=True).indices
    probabilities, ids = probabilities.gather(-1, order), ids.gather(-1, order)
    cumulative = probabilities.cumsum(-1)
    typical = cumulative - probabilities < columns[TYPICAL_P]
    return race(ids, probabilities * typical, columns)


def _draw_sorted(ids: torch.Tensor, weights: torch.Tensor, mass: torch.Tensor, columns: Columns) -> torch.Tensor:
    """Tokens [B] from candidates [B, width], likeliest first, of which those are kept that top_p of `mass` takes.

    mass: in steps. Of equally likely ones all are kept if one is, for they come in no order.
    """
    steps = _in_steps(weights)
    before = steps.cumsum(-1) - steps
    kept = (before < mass * columns[TOP_P]).sum(-1, keepdim=True).clamp_(min=1)
    return race(ids, weights * (weights >= weights.gather(-1, kept - 1)), columns)


def race(ids: torch.Tensor, weights: torch.Tensor, columns: Columns) -> torch.Tensor:
    """Tokens [B], each drawn from its row's candidates [B, width] by their weights, of which not all are 0.

    The smallest of exponentially distributed times, each divided by its weight, is each one with the probability of its
    weight's share (which is what the largest of Gumbel-distributed numbers added to logits is, arXiv:1411.0030).
    """
    winner = (weights / exponential(columns.key, ids)).argmax(-1, keepdim=True)
    return ids.expand_as(weights).gather(-1, winner)[:, 0]


def _in_steps(weights: torch.Tensor) -> torch.Tensor:
    """Weights, none of which is over 1, as whole numbers of steps: sums of these do not depend on their order."""
    return (weights * STEPS).round_()


def _weights(logits: torch.Tensor, best: torch.Tensor, columns: Columns) -> torch.Tensor:
    """Probabilities relative to the likeliest token's, float64, 0 where min_p says so."""
    weights = (logits - best).double().div_(columns[TEMPERATURE]).exp_()
    if columns.has_min_p:
        weights *= weights >= columns[MIN_P]
    return weights


def _invert(cumulative: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The first index [B, 1] at which each row's running total exceeds its target."""
    return torch.searchsorted(cumulative, target, right=True).clamp_(max=cumulative.shape[1] - 1)
