"""What lies before the first span of a step of decoding: one launch where positions alone say how heads are turned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from halfbyte.kernels.triton.begin_rows import begin_rows

if TYPE_CHECKING:
    from halfbyte.kernels.interface import PassShape


AT_ONCE = 1024  # positions whose cosines are made together


class Beginning:
    """See interface.Begin. Keeps a table of cosines and sines, of 1 KB a position where heads have 128 numbers."""

    def __init__(self, shape: PassShape, device: torch.device) -> None:
        self.shape, self.device = shape, device
        # The last one is used. Recorded steps go on reading the one that was there when they were recorded.
        self.tables: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(
        self, tokens: torch.Tensor, positions: torch.Tensor, lengths: torch.Tensor | None, limit: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """limit: no position is as large; the first call with a limit must not be one that is recorded."""
        embedding = self.shape.embedding
        if embedding is None or not embedding.is_contiguous() or not self._has(limit):
            return self.shape.begin(tokens, positions, lengths)
        return begin_rows(tokens, positions, embedding, *self.tables[-1])

    def _has(self, limit: int) -> bool:
        """Whether there is a table for positions below the limit."""
        if self.tables and limit <= len(self.tables[-1][0]):
            return True
        listed = self.shape.angles(limit)
        if listed is None:
            return False
        # made as passes of prompts make them: the CPU's cosines differ in their last bits
        parts = [self._turns(first, min(first + AT_ONCE, limit)) for first in range(0, limit, AT_ONCE)]
        cos, sin = (torch.cat(list(some)) for some in zip(*parts, strict=True))
        self.tables.append((cos, sin))
        return True

    def _turns(self, first: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        positions = torch.arange(first, end, device=self.device)
        _, cos, sin = self.shape.begin(torch.zeros_like(positions), positions, None)
        return cos, sin
