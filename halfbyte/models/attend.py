"""How a network meets its past. The network hands over rotated q, k and v; where k and v are kept is not its affair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class Attend(Protocol):
    """Attention of the tokens of one forward pass, over whatever sequences and caches lie behind it."""

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """q: [T, H, d], k and v: [T, Hkv, d] of this pass's T tokens -> [T, H * d]."""
