"""What parameters do to logits before a token is chosen. The rows' edits are gathered first and applied together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from halfbyte.engine.sampler_row import SamplerRow

MINUS_INFINITY = np.float32(-math.inf).view(np.int32)  # its bits


def edit(logits: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
    """In place, on float32 logits [B, V]."""
    restrict(logits, rows)
    ban(logits, rows)
    add_bias(logits, rows)
    penalize(logits, rows)


def restrict(logits: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
    """Leave a chance only to tokens that a constraint or allowed_token_ids allow.

    A ban that would leave none does not count.
    """
    chosen = [i for i, row in enumerate(rows) if _is_restricted(row)]
    if logits.device.type == "cpu":
        chosen = [i for i in chosen if not _needs_nothing(rows[i], logits[i])]
    if not chosen:
        return
    forbidden = [_forbidden(rows[i], logits.shape[1]) for i in chosen]
    if logits.device.type == "cpu":  # added as -inf or 0: numpy takes a sixth of the time that masked_fill_ takes
        values = logits.numpy()
        with np.errstate(invalid="ignore"):  # a row that is damaged anyway
            for i, marks in zip(chosen, forbidden, strict=True):
                values[i] += np.multiply(marks, MINUS_INFINITY, dtype=np.int32).view(np.float32)
        return
    where = torch.from_numpy(np.stack(forbidden).view(np.bool_)).to(logits.device)
    if len(chosen) == len(rows):
        logits.masked_fill_(where, -math.inf)
    else:
        logits[chosen] = logits[chosen].masked_fill_(where, -math.inf)


def ban(logits: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
    """Give banned tokens no chance (in restricted rows it is done)."""
    banned = [(i, list(row.banned)) for i, row in enumerate(rows) if not _is_restricted(row)]
    _scatter(logits, [(i, ids, [-math.inf] * len(ids)) for i, ids in banned if ids])


def add_bias(logits: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
    """logit_bias."""
    biased = [(i, row.params.logit_bias) for i, row in enumerate(rows) if row.params.logit_bias]
    _scatter(logits, [(i, list(bias), list(bias.values())) for i, bias in biased])


def penalize(logits: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
    """Penalties for tokens that were there before.

    Repetition (CTRL, arXiv:1909.05858): positive logits are divided by it, negative ones multiplied. Then frequency
    times the number of times that the answer has the token, and presence if it has it, are taken away.
    """
    counted = [(i, *found) for i, row in enumerate(rows) if (found := row.counted) is not None]
    if not counted:
        return
    where = _places([(i, len(ids)) for i, ids, _ in counted]), np.concatenate([ids for _, ids, _ in counted])
    counts = np.concatenate([counts for *_, counts in counted])
    parameters = np.array(
        [
            (p.repetition_penalty, p.frequency_penalty, p.presence_penalty)
            for p in (rows[i].params for i, *_ in counted)
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


def _needs_nothing(row: SamplerRow, logits: torch.Tensor) -> bool:
    """Whether the row's token is the likeliest of all, and allowed: what else is allowed does not matter then.

    Within the strings of a JSON schema, where finding all that is allowed takes longest, it nearly always is so.
    """
    if not (row.greedy and row.is_only_constrained and row.constraint):
        return False
    return row.constraint.allows(int(logits.numpy().argmax()))


def _forbidden(row: SamplerRow, vocabulary: int) -> np.ndarray:
    """1 for each token that may not come next, 0 for the others, of which there is one at least: uint8 [V]."""
    forbidden = np.zeros(vocabulary, dtype=np.uint8) if row.constraint is None else row.constraint.forbidden()
    banned = row.banned
    if row.params.allowed_token_ids is None and not banned:
        return forbidden
    allowed = forbidden == 0
    if row.params.allowed_token_ids is not None:
        listed = np.zeros(vocabulary, dtype=bool)
        listed[list(row.params.allowed_token_ids)] = True
        allowed = allowed & listed if (allowed & listed).any() else allowed
    if banned:
        others = allowed.copy()
        others[list(banned)] = False
        allowed = others if others.any() else allowed
    closed: np.ndarray = np.logical_not(allowed).view(np.uint8)
    return closed


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
