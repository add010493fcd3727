"""Attention of a batch over a cache of transformers', for our own network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from halfbyte.checkpoint.config import ModelConfig


class CacheAttention:
    """An `Attend` for B sequences of T new tokens each, which lie one behind the other in the pass.

    Shapes: q [B * T, H, d], k and v [B * T, Hkv, d]; S keys, counting the new ones, lie in the cache (any of
    transformers' kinds, or None for no past). `keep` [B, past + T] is False where a token is padding, and None if there
    is none.
    """

    def __init__(self, config: ModelConfig, cache: Any, batch: int, past: int, keep: torch.Tensor | None) -> None:
        self.windows = config.sliding_windows
        self.grouped = config.num_heads != config.num_kv_heads
        self.cache, self.batch, self.past, self.keep = cache, batch, past, keep
        self.masks: dict[tuple[int, int, int | None], torch.Tensor | None] = {}

    @torch.inference_mode(False)  # the cache outlives the pass, and must be usable outside inference mode
    @torch.no_grad()
    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """See Attend."""
        q, k, v = (x.view(self.batch, -1, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
        new = q.shape[2]
        keys, first = (new, 0) if self.cache is None else self.cache.get_mask_sizes(new, layer)
        if self.cache is not None:
            k, v = self.cache.update(k, v, layer)
        place = (int(keys), int(first), self.windows[layer])
        if place not in self.masks:
            self.masks[place] = self._mask(new, *place)
        mask = self.masks[place]
        causal = mask is None and new > 1
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=self.grouped)
        return out.transpose(1, 2).reshape(self.batch * new, -1)

    def _mask(self, new: int, keys: int, first: int, window: int | None) -> torch.Tensor | None:
        """[B or 1, 1, T, S] bool, which keys each token sees; None where causality alone says so.

        The cache's keys are those of tokens `first` to `first + keys`. A token always sees itself, even if it is
        padding: attention over nothing would be NaN, and spread.
        """
        end = self.past + new
        plain = self.keep is None and first == 0 and keys == end and (window is None or window >= end)
        if plain and (new == 1 or self.past == 0):
            return None
        query = torch.arange(self.past, end)[:, None]
        key = torch.arange(first, first + keys)
        seen = key <= query
        if window is not None:
            seen &= key > query - window
        if self.keep is None:
            return seen[None, None]
        kept = F.pad(self.keep, (0, max(0, first + keys - end)))[:, None, None, first : first + keys]
        return seen & kept | (key == query)
