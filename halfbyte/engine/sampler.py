"""From logits to tokens, for a batch of requests that each have parameters and a seed of their own.

A row's token depends on nothing but the row: what is drawn for a seed is the same alone and in any batch. Probabilities
are taken in float64, so that the order of a vectorised loop does not show. Nothing here waits for the device but what
`sample` returns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch

from halfbyte.engine.logit_edits import edit
from halfbyte.engine.random_numbers import uniform

if TYPE_CHECKING:
    from halfbyte.engine.sampler_row import SamplerRow
    from halfbyte.engine.sampling_params import SamplingParams

# (logits [B, V], parameters of each row, uniform numbers [B, 1] in [0, 1)) -> tokens [B]
Draw = Callable[[torch.Tensor, "Sequence[SamplingParams]", torch.Tensor], torch.Tensor]

NUCLEUS = 256  # candidates that top_p tries before looking for how many it needs


@torch.inference_mode()
def sample(logits: torch.Tensor, rows: Sequence[SamplerRow]) -> list[int | None]:
    """A token for each row of float32 logits [B, V], which are overwritten; None where a logit was not finite.

    In vLLM's order: allowed and banned tokens, constraints, logit_bias, penalties, temperature, min_p, top_k, top_p,
    and then typical_p.
    """
    finite = logits.sum(-1).isfinite()  # the sum is finite if all are
    edit(logits, rows)
    tokens = first_of_largest(logits)
    for draw, members in _grouped(rows, logits.shape[1]).items():
        numbers = uniform([rows[i].seed for i in members], [rows[i].step for i in members]).to(logits.device)
        part = logits if len(members) == len(rows) else logits[members]
        tokens[members] = draw(part, [rows[i].params for i in members], numbers[:, None])
    return [None if token < 0 else token for token in tokens.where(finite, -1).tolist()]


def first_of_largest(logits: torch.Tensor) -> torch.Tensor:
    """Index of each row's largest value, the lowest of equals. numpy's takes 6 µs for 49152 values, torch's 87."""
    return torch.from_numpy(logits.numpy().argmax(-1)) if logits.device.type == "cpu" else logits.argmax(-1)


def _grouped(rows: Sequence[SamplerRow], vocabulary: int) -> dict[Draw, list[int]]:
    """Rows to draw for, by the way of drawing; a row's own parameters alone decide on it."""
    groups = defaultdict(list)
    for i, row in enumerate(rows):
        if not row.params.greedy:
            groups[_way(row.params, vocabulary)].append(i)
    return groups


def _way(p: SamplingParams, vocabulary: int) -> Draw:
    if p.typical_p < 1.0:
        return draw_typical
    if p.top_k > 0:
        return _top_k(min(vocabulary, 1 << (p.top_k - 1).bit_length()))  # a power of two: few ways, large groups
    return draw_any if p.top_p == 1.0 else draw_nucleus


def draw_any(logits: torch.Tensor, params: Sequence[SamplingParams], uniform: torch.Tensor) -> torch.Tensor:
    """From the whole vocabulary, without sorting it."""
    cumulative = _weights(logits, logits.amax(-1, keepdim=True), params).cumsum(-1)
    return _invert(cumulative, uniform * cumulative[:, -1:])[:, 0]


@cache
def _top_k(width: int) -> Draw:
    """From each row's top_k likeliest, none of which is over `width`."""

    def draw(logits: torch.Tensor, params: Sequence[SamplingParams], uniform: torch.Tensor) -> torch.Tensor:
        best, ids = logits.topk(width)
        within = torch.arange(width, device=best.device) < _column([p.top_k for p in params], best.device)
        weights = _weights(best, best[:, :1], params) * within
        return _draw_sorted(ids, weights, weights.sum(-1, keepdim=True), params, uniform)

    return draw


def draw_nucleus(logits: torch.Tensor, params: Sequence[SamplingParams], uniform: torch.Tensor) -> torch.Tensor:
    """From each row's top_p (arXiv:1904.09751); sorts no more of the vocabulary than that takes."""
    vocabulary = logits.shape[1]
    weights = _weights(logits, logits.amax(-1, keepdim=True), params)
    mass = weights.sum(-1, keepdim=True)
    top_p = _column([p.top_p for p in params], logits.device)
    best, ids = weights.topk(min(NUCLEUS, vocabulary))
    short = best.sum(-1, keepdim=True) < mass * top_p
    # tokens under this weight add up to less than what top_p leaves out, so none of them can be in
    needed = (weights >= mass * (1 - top_p) / vocabulary).sum(-1, keepdim=True)
    width = int((needed * short).max())  # 0 if no row is short
    tokens = _draw_sorted(ids, best, mass, params, uniform)
    if width:
        best, ids = weights.topk(width)
        tokens = torch.where(short[:, 0], _draw_sorted(ids, best, mass, params, uniform), tokens)
    return tokens


def draw_typical(logits: torch.Tensor, params: Sequence[SamplingParams], uniform: torch.Tensor) -> torch.Tensor:
    """From the most typical (arXiv:2202.00666) of what min_p, top_k and top_p leave; sorts the vocabulary."""
    weights, ids = _weights(logits, logits.amax(-1, keepdim=True), params).sort(dim=-1, descending=True, stable=True)
    top_k = _column([p.top_k if p.top_k > 0 else logits.shape[1] for p in params], logits.device)
    weights *= torch.arange(logits.shape[1], device=logits.device) < top_k
    before = weights.cumsum(-1) - weights
    weights *= before < weights.sum(-1, keepdim=True) * _column([p.top_p for p in params], logits.device)
    probabilities = weights / weights.sum(-1, keepdim=True)
    surprise = -probabilities.log()
    entropy = torch.where(probabilities > 0, probabilities * surprise, 0.0).sum(-1, keepdim=True)
    order = (surprise - entropy).abs().sort(dim=-1, stable=True).indices
    probabilities, ids = probabilities.gather(-1, order), ids.gather(-1, order)
    cumulative = probabilities.cumsum(-1)
    typical = cumulative - probabilities < _column([p.typical_p for p in params], logits.device)
    total = (probabilities * typical).sum(-1, keepdim=True)
    return ids.gather(-1, _invert(cumulative, uniform * total))[:, 0]


def _draw_sorted(
    ids: torch.Tensor,
    weights: torch.Tensor,
    mass: torch.Tensor,
    params: Sequence[SamplingParams],
    uniform: torch.Tensor,
) -> torch.Tensor:
    """Tokens [B] from candidates [B, width], likeliest first, of which those are kept that top_p of `mass` takes."""
    cumulative = weights.cumsum(-1)
    before = cumulative - weights
    kept = (before < mass * _column([p.top_p for p in params], weights.device)).sum(-1, keepdim=True).clamp_(min=1)
    total = cumulative.gather(-1, kept - 1)
    return ids.gather(-1, _invert(cumulative, uniform * total))[:, 0]


def _weights(logits: torch.Tensor, best: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """Probabilities relative to the likeliest token's, float64, 0 where min_p says so."""
    weights = (logits - best).double().div_(_column([p.temperature for p in params], logits.device)).exp_()
    if any(p.min_p > 0 for p in params):
        weights *= weights >= _column([p.min_p for p in params], logits.device)
    return weights


def _invert(cumulative: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The first index [B, 1] at which each row's running total exceeds its target."""
    return torch.searchsorted(cumulative, target, right=True).clamp_(max=cumulative.shape[1] - 1)


def _column(values: Sequence[float], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).to(device, non_blocking=True)[:, None]
