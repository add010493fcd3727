"""A tensor's bytes, for files and digests."""

from __future__ import annotations

import torch


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, which writing to them changes."""
    return tensor.numpy().data.cast("B")
