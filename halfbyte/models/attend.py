"""How a network meets its past. The network hands over rotated q, k and v; where k and v are kept is not its affair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from halfbyte.kernels.reference import attention

if TYPE_CHECKING:
    import torch

    from halfbyte.checkpoint.config import ModelConfig


class Attend(Protocol):
    """Attention of the tokens of one forward pass, over whatever sequences and caches lie behind it."""

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """q: [T, H, d], k and v: [T, Hkv, d] of this pass's T tokens -> [T, H * d]."""


class WholeSequences:
    """Attends within `batch` sequences of equal length that lie one behind the other in the pass; nothing is kept."""

    def __init__(self, config: ModelConfig, batch: int) -> None:
        self.windows = config.sliding_windows
        self.batch = batch

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """See Attend."""
        q_, k_, v_ = (x.view(self.batch, -1, *x.shape[1:]) for x in (q, k, v))
        return attention(q_, k_, v_, window=self.windows[layer]).reshape(q.shape[0], -1)
