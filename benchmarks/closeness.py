"""How near ways of computing a network come to the exact one: perplexity, and KL divergence from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

EXACT = "float"  # the way that the others are compared with


def closeness(
    ways: Iterable[str], windows: Iterable[torch.Tensor], log_probabilities: Callable[[str, torch.Tensor], torch.Tensor]
) -> dict[str, dict[str, float]]:
    """log_probabilities(way, window [T]): [T - 1, V], of each next token. EXACT is the first way. KL is in nats."""
    ways = list(ways)
    losses: dict[str, list[float]] = {way: [] for way in ways}
    far: dict[str, list[float]] = {way: [] for way in ways if way != EXACT}
    for window in windows:
        exact = torch.empty(0)
        for way in ways:
            log_p = log_probabilities(way, window)
            losses[way].append(torch.nn.functional.nll_loss(log_p, window[1:]).item())
            if way == EXACT:
                exact = log_p
                continue
            far[way].append(torch.nn.functional.kl_div(log_p, exact, log_target=True, reduction="batchmean").item())
    return {
        "perplexity": {way: round(float(torch.tensor(some).mean().exp()), 3) for way, some in losses.items()},
        "kl": {way: round(sum(some) / len(some), 6) for way, some in far.items()},
    }
