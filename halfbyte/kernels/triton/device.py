"""What Triton can make use of on a device."""

from __future__ import annotations

from functools import cache

import torch

MATRIX_UNITS = (8, 0)  # NVIDIA's compute capability from which Triton multiplies with them, and not by loops of sums


@cache
def has_matrix_units(device: torch.device) -> bool:
    """Whether `tl.dot` is more than a loop. On AMD it is where Triton knows the GPU at all."""
    if device.type != "cuda" or torch.version.hip is not None:
        return True
    return torch.cuda.get_device_capability(device) >= MATRIX_UNITS
