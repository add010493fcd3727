"""A network, or a process's share of one, with the memory for its keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from halfbyte.engine.transfer import upload
from halfbyte.kernels.inference import without_gradients
from halfbyte.kernels.interface import PagedBatch, PagedCaches

if TYPE_CHECKING:
    from collections.abc import Callable

    from halfbyte.engine.pass_plan import PassPlan
    from halfbyte.kernels.cache_kind import CacheKind
    from halfbyte.models.network import AdaptLayer, Network, Watch


class PagedAttend:
    """An `Attend` for one pass. `paged` is for kernels that do the whole pass in one call."""

    def __init__(self, network: Network, caches: list[tuple[torch.Tensor, torch.Tensor]], batch: PagedBatch) -> None:
        self.attention = network.kernels.attention
        self.paged = PagedCaches(caches, batch, network.config.head_dim**-0.5, network.config.sliding_windows)

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """See Attend."""
        p = self.paged
        return self.attention(q, k, v, *p.caches[layer], p.batch, p.scale, p.windows[layer])


class CachedNetwork:
    """Takes planned passes through the network."""

    def __init__(self, network: Network, num_blocks: int, block_size: int, kind: CacheKind = "auto") -> None:
        config, make = network.config, network.kernels.kv_cache
        self.network = network
        self.share_tokens: Callable[[torch.Tensor], None] | None = None  # copies what process 0 chose to the others
        shape = (num_blocks, config.num_kv_heads, block_size, config.head_dim)
        with torch.inference_mode(False):  # what is made in inference mode could not be written outside it
            self.caches = [(make(*shape, kind), make(*shape, kind)) for _ in range(config.num_layers)]

    @without_gradients
    def run(
        self,
        plan: PassPlan,
        adapt: AdaptLayer | None = None,
        watch: Watch | None = None,
        chosen: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states [T, D]. chosen: int64, by lane, what the pass before chose, on the device."""
        tokens, positions, slots, tables, starts, contexts, *lengths = upload(plan.arrays(), self.network.device)
        paged = PagedBatch(
            slots,
            tables,
            starts,
            contexts,
            plan.max_query,
            plan.max_context,
            plan.singles,
            plan.singles_context,
            plan.fresh,
            plan.fresh_start,
            plan.fresh_longest,
        )
        if not plan.is_known:
            if chosen is not None:
                tokens = _with_chosen(plan.tokens, tokens, chosen)
            if self.share_tokens is not None:
                self.share_tokens(tokens)
        attend = PagedAttend(self.network, self.caches, paged)
        return self.network.forward(tokens, positions, attend, lengths[0] if lengths else None, adapt, watch)


def _with_chosen(tokens: np.ndarray, there: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """tokens: those of a plan, which lie on the device too as `there`."""
    if np.array_equal(~tokens, np.arange(len(chosen))):
        return chosen
    return torch.where(there < 0, chosen[(~there).clamp_(0)], there)
