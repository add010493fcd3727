"""What a request asks of its prompt's own places: log-probabilities, or hidden states to pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from halfbyte.engine.logprobs import logprobs

if TYPE_CHECKING:
    from collections.abc import Callable

    from halfbyte.engine.scheduler import Scheduled
    from halfbyte.models.network import Network

ROWS = 64  # whose logits are in memory at once


def gather_prompt_logprobs(
    network: Network, item: Scheduled, hidden: torch.Tensor, text_of: Callable[[int], str]
) -> None:
    """Add those that a pass can tell to the request's. hidden: [count, D] of the item's tokens."""
    sequence = item.sequence
    request, first = sequence.request, item.first
    most = request.params.prompt_logprobs
    if most is None or sequence.answer.index or len(request.prompt_logprobs) == sequence.prompt_length:
        return
    known = request.prompt_logprobs
    if not known:
        known.append(None)  # nothing comes before the first token
    tokens = sequence.token_ids[len(known) : min(first + item.count + 1, sequence.prompt_length)]
    start = len(known) - 1 - first
    for i in range(0, len(tokens), ROWS):
        part = tokens[i : i + ROWS]
        logits = network.logits(hidden[start + i : start + i + len(part)])
        known += logprobs(logits, part, [most] * len(part), text_of)


def pool(item: Scheduled, hidden: torch.Tensor) -> torch.Tensor | None:
    """The prompt's pooled hidden state, float32 [D], once its last token is there."""
    sequence = item.sequence
    request, end = sequence.request, item.first + item.count
    if request.pooling == "mean":
        total = hidden.double().sum(0)
        begun = request.hidden_sum if item.first else None  # anew after a preemption
        request.hidden_sum = total if begun is None else begun + total
    if end < len(sequence.token_ids):
        return None
    return hidden[-1].clone() if request.hidden_sum is None else (request.hidden_sum / end).float()
