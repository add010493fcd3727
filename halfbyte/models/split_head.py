"""The output embedding dealt out by tokens of the vocabulary: each process computes the logits of its own."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from halfbyte.kernels.interface import LinearKernel
    from halfbyte.models.collective import Collective
    from halfbyte.models.share import Share


def head_rows(head: torch.Tensor, share: Share) -> torch.Tensor:
    """The rows of [V, D] that a process has, filled up with zeros so that all have equally many."""
    rows = head[share.vocab.start : share.vocab.stop]
    return F.pad(rows, (0, 0, 0, share.head_rows - len(rows)))


class SplitHead:
    """See Kernels.head. Process 0 calls it, and the others `follow` at the same time."""

    def __init__(self, head: LinearKernel, collective: Collective, vocab_size: int) -> None:
        """head: of `head_rows`."""
        self._head, self._collective, self._vocab_size = head, collective, vocab_size
        # held in process 0 while logits of so many rows are computed: calls the others
        self.together: Callable[[int], AbstractContextManager[None]] = lambda rows: nullcontext()

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Float32 logits [N, V] of hidden states [N, D], which only this process needs to have."""
        with self.together(len(hidden)):
            logits = self._compute(hidden.float().contiguous())
        assert logits is not None
        return logits

    def follow(self, rows: int, width: int, device: torch.device) -> None:
        """Do a process's part of a call for so many rows of hidden states [width]."""
        self._compute(torch.empty(rows, width, device=device))

    def _compute(self, hidden: torch.Tensor) -> torch.Tensor | None:
        self._collective.copy(hidden)
        parts = self._collective.gather(self._head(hidden).contiguous())
        return None if parts is None else torch.cat(list(parts), 1)[:, : self._vocab_size]
