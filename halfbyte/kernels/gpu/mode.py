"""How a set of GPU kernels is to work."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from halfbyte.kernels.gpu.portable import is_portable


@dataclass(frozen=True, slots=True)
class Mode:
    """portable: Triton alone. fixed: a token's results depend on it and its past alone. dtype: of activations."""

    portable: bool
    fixed: bool = False
    dtype: torch.dtype = torch.float16

    @staticmethod
    def of(device: torch.device) -> Mode:
        """What a device gets if nobody asks for anything."""
        return Mode(is_portable(device))
