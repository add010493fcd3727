"""Float values as they will stand in the published files: float16, as AWQ's loaders expect."""

from __future__ import annotations

import torch

from halfbyte.errors import QuantizeError

LARGEST_FLOAT16 = 65504.0


def float16(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """The tensor in float16. Raises QuantizeError, naming it, on overflow."""
    largest = tensor.abs().max().item()
    if largest > LARGEST_FLOAT16:
        raise QuantizeError(f"{name} holds {largest:.4g}, more than float16 can ({LARGEST_FLOAT16:.0f})")
    return tensor.to(torch.float16)


def as_published(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """The float32 values that a reader of the published tensor will see."""
    return float16(tensor, name).float()
