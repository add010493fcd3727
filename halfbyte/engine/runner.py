"""Takes what the scheduler chose through the network, over paged keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfbyte.engine.cached_network import CachedNetwork
from halfbyte.engine.pass_plan import plan_pass

if TYPE_CHECKING:
    import torch

    from halfbyte.engine.block_tables import BlockTables
    from halfbyte.engine.ranks import Ranks
    from halfbyte.engine.scheduler import Scheduled
    from halfbyte.kernels.cache_kind import CacheKind
    from halfbyte.models.network import AdaptLayer, Network, Watch


class Runner:
    """The network and the memory for keys and values."""

    def __init__(
        self,
        network: Network,
        num_blocks: int,
        block_size: int,
        tables: BlockTables,
        kind: CacheKind = "auto",
        ranks: Ranks | None = None,
    ) -> None:
        """ranks: the processes that have the other shares of the network."""
        self.network = network
        self.block_size = block_size
        self.tables = tables
        self.needs_lengths = network.config.rope.rope_type == "dynamic"
        self.ranks = ranks
        self.cached = CachedNetwork(network, num_blocks, block_size, kind)
        if ranks is not None:
            self.cached.share_tokens = ranks.group.copy

    def forward(
        self,
        batch: list[Scheduled],
        adapt: AdaptLayer | None = None,
        watch: Watch | None = None,
        chosen: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states [T, D] of the pass's tokens, in the order of the batch. May be repeated: it only adds.

        chosen: what the pass before chose, on the device: int64, by `Sequence.lane`. It is read where a sequence's
        next token is not known here yet.
        """
        plan = plan_pass(batch, self.tables, self.block_size, needs_lengths=self.needs_lengths)
        if self.ranks is None:
            return self.cached.run(plan, adapt, watch, chosen)
        adapters = None if adapt is None else [(item.sequence.request.adapter, item.count) for item in batch]
        with self.ranks.in_step():
            self.ranks.run(plan, adapters)
            return self.cached.run(plan, adapt, watch, chosen)

    def salt(self, prompt_length: int) -> bytes:
        """What keys and values of a sequence depend on besides its tokens, see `plan_pass`."""
        longer = self.needs_lengths and prompt_length > self.network.config.max_position_embeddings
        return b"%d" % prompt_length if longer else b""
