"""Runs a network over the tokens of one sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from halfbyte.engine.kv_cache import SequenceCache
    from halfbyte.models.network import Network

CHUNK = 512  # tokens a pass while reading a prompt: enough to be efficient, few enough to bound a pass's memory


def next_logits(network: Network, cache: SequenceCache, tokens: Sequence[int], chunk: int = CHUNK) -> torch.Tensor:
    """Logits [1, V] of what follows `tokens`, which are added to the cache."""
    first, end = cache.length, cache.length + len(tokens)
    ids, positions = torch.tensor(tokens), torch.arange(first, end)
    # dynamic scaling must see the length that the whole prompt has, whichever chunk a token is in
    lengths = torch.full_like(positions, end) if network.config.rope.rope_type == "dynamic" else None
    hidden = None
    for i in range(0, len(tokens), chunk):
        part = slice(i, i + chunk)
        hidden = network.forward(ids[part], positions[part], cache, None if lengths is None else lengths[part])
    assert hidden is not None
    with network.kernels.threads(1):
        return network.logits(hidden[-1:])
