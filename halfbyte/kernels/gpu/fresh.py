"""Attention of prompts that begin in the pass: their keys and values need not come from the cache's pages.

FlashAttention (arXiv:2307.08691), which PyTorch carries, then takes them as they lie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from halfbyte.kernels.interface import PagedBatch

LEAST_TOKENS = 64  # of the longest of them, for which it is worth the copies
WIDEST = 256  # head


class Fresh:
    """The sequences at the end of a pass that have no past, from row `start` on; their keys and values of a layer."""

    def __init__(self, batch: PagedBatch, kv_heads: int, head_dim: int, dtype: torch.dtype) -> None:
        device = batch.query_start.device
        self.start, self.longest = batch.fresh_start, batch.fresh_longest
        self.starts = batch.query_start[-(batch.fresh + 1) :] - self.start
        T = batch.slot_mapping.shape[0] - self.start
        self.keys, self.values = torch.empty(2, T, kv_heads, head_dim, dtype=dtype, device=device)

    @staticmethod
    def of(batch: PagedBatch, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> Fresh | None:
        """Those of the batch; None where there are none, or they go through the pages as all others do."""
        takes = head_dim % 8 == 0 and head_dim <= WIDEST and heads % kv_heads == 0 and dtype != torch.float32
        is_worth_it = batch.fresh > 0 and batch.fresh_longest >= LEAST_TOKENS
        if not takes or not is_worth_it or not torch.backends.cuda.is_flash_attention_available():
            return None
        return Fresh(batch, kv_heads, head_dim, dtype)

    def place(self) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Where keys and values of a layer are to be left, and the row from which on: see `rope_store`."""
        return self.keys, self.values, self.start

    def attend(self, q: torch.Tensor, scale: float, window: int | None) -> torch.Tensor:
        """q [T, H, d] of these sequences -> [T, H, d], whose columns are in the order of the values'."""
        sides = {} if window is None else {"window_size_left": window - 1, "window_size_right": 0}
        found = torch.ops.aten._flash_attention_forward(
            q, self.keys, self.values, self.starts, self.starts, self.longest, self.longest,
            0.0, True, False, scale=scale, **sides,
        )  # fmt: skip
        return found[0]  # type: ignore[no-any-return]
