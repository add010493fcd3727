"""What parameters do to logits before a token is chosen. The rows' edits are gathered first and applied together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from halfbyte.errors import GenerationError

if TYPE_CHECKING:
    from collections.abc import Container

    from halfbyte.engine.sampler_row import SamplerRow

MINUS_INFINITY = np.float32(-math.inf).view(np.int32)  # its bits


Rows = Sequence["SamplerRow | None"]  # None: to be left as it is


def edit(logits: torch.Tensor, rows: Rows, bound: Container[int] = ()) -> None:
    """In place, on float32 logits [B, V]. bound: rows whose constraint is seen to elsewhere."""
    restrict(logits, [None if i in bound else row for i, row in enumerate(rows)])
    ban(logits, rows)
    add_bias(logits, rows)
    penalize(logits, rows)


def restrict(logits: torch.Tensor, rows: Rows) -> None:
    """Leave a chance only to tokens that a constraint or allowed_token_ids allow.

    Where what a request asks for leaves none, its row's `problem` says so. Only min_tokens gives way: an answer whose
    constraint lets it do nothing but end, ends.
    """
    chosen = [(i, row) for i, row in enumerate(rows) if row is not None and _is_restricted(row)]
    if not chosen:
        return
    forbidden = [_forbidden(row, logits.shape[1]) for _, row in chosen]
    if logits.device.type == "cpu":  # added as -inf or 0: numpy takes a sixth of the time that masked_fill_ takes
        values = logits.numpy()
        with np.errstate(invalid="ignore"):  # a row that is damaged anyway
            for (i, _), marks in zip(chosen, forbidden, strict=True):
                values[i] += np.multiply(marks, MINUS_INFINITY, dtype=np.int32).view(np.float32)
        return
    where = torch.from_numpy(np.stack(forbidden).view(np.bool_)).to(logits.device)
    if len(chosen) == len(rows):
        logits.masked_fill_(where, -math.inf)
    else:
        places = [i for i, _ in chosen]
        logits[places] = logits[places].masked_fill_(where, -math.inf)


def ban(logits: torch.Tensor, rows: Rows) -> None:
    """Give banned tokens no chance (in restricted rows it is done)."""
    banned = [(i, list(row.banned)) for i, row in enumerate(rows) if row is not None and not _is_restricted(row)]
    _scatter(logits, [(i, ids, [-math.inf] * len(ids)) for i, ids in banned if ids])


def add_bias(logits: torch.Tensor, rows: Rows) -> None:
    """logit_bias."""
    biased = [(i, row.params.logit_bias) for i, row in enumerate(rows) if row is not None and row.params.logit_bias]
    _scatter(logits, [(i, list(bias), list(bias.values())) for i, bias in biased if bias])


def penalize(logits: torch.Tensor, rows: Rows) -> None:
    """Penalties for tokens that were there before.

    Repetition (CTRL, arXiv:1909.05858): positive logits are divided by it, negative ones multiplied. Then frequency
    times the number of times that the answer has the token, and presence if it has it, are taken away.
    """
    there = [(i, row, row.counted) for i, row in enumerate(rows) if row is not None]
    counted = [(i, *found) for i, _, found in there if found is not None]
    if not counted:
        return
    where = _places([(i, len(ids)) for i, ids, _ in counted]), np.concatenate([ids for _, ids, _ in counted])
    counts = np.concatenate([counts for *_, counts in counted])
    parameters = np.array(
        [
            (p.repetition_penalty, p.frequency_penalty, p.presence_penalty)
            for p in (row.params for _, row, found in there if found is not None)
        ],
        dtype=np.float32,
    ).repeat([len(ids) for _, ids, _ in counted], axis=0)
    lost = parameters[:, 1] * counts + parameters[:, 2] * (counts > 0)
    device = logits.device
    index = tuple(torch.from_numpy(x).to(device) for x in where)
    penalty, less = (torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in (parameters[:, 0], lost))
    scores = logits[index]
    logits[index] = torch.where(scores > 0, scores / penalty, scores * penalty) - less


def _is_restricted(row: SamplerRow) -> bool:
    return row.constraint is not None or row.params.allowed_token_ids is not None


def _forbidden(row: SamplerRow, vocabulary: int) -> np.ndarray:
    """1 for each token that may not come next, 0 for the others, of which there is one at least: uint8 [V]."""
    forbidden = _forbidden_by_constraint(row, vocabulary)
    words, ends = row.banned_words, row.banned_ends
    if row.params.allowed_token_ids is None and not words and not ends:
        return forbidden
    allowed = forbidden == 0
    if row.params.allowed_token_ids is not None:
        listed = np.zeros(vocabulary, dtype=bool)
        listed[list(row.params.allowed_token_ids)] = True
        allowed = _narrowed(row, "allowed_token_ids", allowed, allowed & listed)
    if words:
        allowed = _narrowed(row, "bad_words", allowed, _without(allowed, words))
    if ends:
        longer = _without(allowed, ends)
        allowed = longer if longer.any() else allowed
    closed: np.ndarray = np.logical_not(allowed).view(np.uint8)
    return closed


def _without(allowed: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
    others = allowed.copy()
    others[list(tokens)] = False
    return others


def _narrowed(row: SamplerRow, name: str, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """What a parameter leaves of the allowed tokens; if that is nothing, the row has a problem."""
    if after.any():
        return after
    if row.problem is None:
        spec = row.params.constraint
        others = spec[0] if spec is not None else "allowed_token_ids"
        row.problem = GenerationError(
            f"{name} and {others} contradict each other: after {row.step} tokens of the answer no token is allowed by "
            "both; change one of them"
        )
    return before


def _forbidden_by_constraint(row: SamplerRow, vocabulary: int) -> np.ndarray:
    if row.constraint is not None:
        try:
            return row.constraint.forbidden()
        except GenerationError as error:  # the end of this answer, and of no other
            row.problem = error
    return np.zeros(vocabulary, dtype=np.uint8)


def _scatter(logits: torch.Tensor, edits: list[tuple[int, list[int], list[float]]]) -> None:
    """Add values to logits: (row, token ids, values)."""
    if not edits:
        return
    rows = torch.from_numpy(_places([(i, len(ids)) for i, ids, _ in edits]))
    ids = torch.tensor([token for _, ids, _ in edits for token in ids])
    values = torch.tensor([value for *_, values in edits for value in values])
    index = (rows.to(logits.device), ids.to(logits.device))
    logits[index] = logits[index] + values.to(logits.device)  # an id that comes twice is added once


def _places(counts: list[tuple[int, int]]) -> np.ndarray:
    return np.repeat(np.array([i for i, _ in counts]), [count for _, count in counts])
