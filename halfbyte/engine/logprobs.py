"""Log-probabilities of chosen and of likeliest tokens, for many rows at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from halfbyte.engine.outputs import Logprob, LogprobsOfStep
from halfbyte.kernels.inference import without_gradients

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@without_gradients
def logprobs(
    logits: torch.Tensor, tokens: Sequence[int], likeliest: Sequence[int], text_of: Callable[[int], str]
) -> list[LogprobsOfStep]:
    """For each row of logits [B, V]: its token's log-probability and those of so many of the likeliest tokens."""
    scores = logits.float().log_softmax(-1)
    chosen = scores.gather(-1, torch.tensor(tokens, device=scores.device)[:, None])
    ranks = (scores > chosen).sum(-1) + 1
    best, ids = scores.topk(min(max(likeliest), scores.shape[1]))
    columns = chosen[:, 0].tolist(), ranks.tolist(), best.tolist(), ids.tolist()
    steps = []
    for token, most, own, rank, values, others in zip(tokens, likeliest, *columns, strict=True):
        step = {token: Logprob(own, rank, text_of(token))}
        for place, (other, value) in enumerate(zip(others[:most], values[:most], strict=True), start=1):
            step.setdefault(other, Logprob(value, place, text_of(other)))
        steps.append(step)
    return steps
