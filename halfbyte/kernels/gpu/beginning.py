"""What lies before the first span of a step of decoding: one launch where positions alone say how heads are turned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from halfbyte.kernels.triton.begin_rows import begin_rows

if TYPE_CHECKING:
    from halfbyte.kernels.interface import PassShape


class Beginning:
    """See interface.Begin. Keeps a table of cosines and sines, of 1 KB a position where heads have 128 numbers."""

    def __init__(self, shape: PassShape, device: torch.device) -> None:
        self.shape, self.device = shape, device
        self.table: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(
        self, tokens: torch.Tensor, positions: torch.Tensor, lengths: torch.Tensor | None, limit: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """limit: no position is as large; the first call with a limit must not be one that is recorded."""
        embedding, rope = self.shape.embedding, self.shape.rope
        if embedding is None or rope is None or not embedding.is_contiguous():
            return self.shape.begin(tokens, positions, lengths)
        if self.table is None or limit > len(self.table[0]):
            cos, sin = rope(torch.arange(limit, device=self.device))
            self.table = cos.contiguous(), sin.contiguous()
        return begin_rows(tokens, positions, embedding, *self.table)
