"""Takes what the scheduler chose through the network, over paged keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from halfbyte.kernels.interface import PagedBatch, PagedCaches

if TYPE_CHECKING:
    from halfbyte.engine.scheduler import Scheduled
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


class Runner:
    """The network and the memory for keys and values."""

    def __init__(self, network: Network, num_blocks: int, block_size: int) -> None:
        config = network.config
        self.network = network
        self.block_size = block_size
        self.device = network.device
        with torch.inference_mode(False):  # what is made in inference mode could not be written outside it
            self.caches = [
                tuple(
                    network.kernels.kv_cache(num_blocks, config.num_kv_heads, block_size, config.head_dim)
                    for _ in ("keys", "values")
                )
                for _ in range(config.num_layers)
            ]
        self.needs_lengths = config.rope.rope_type == "dynamic"

    def forward(
        self, batch: list[Scheduled], adapt: AdaptLayer | None = None, watch: Watch | None = None
    ) -> torch.Tensor:
        """Hidden states [T, D] of the pass's tokens, in the order of the batch. May be repeated: it only adds."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        for item in batch:
            sequence, first = item.sequence, item.sequence.num_computed
            end, size = first + item.count, self.block_size
            tokens += sequence.token_ids[first:end]
            tokens += sequence.draft[: max(0, end - len(sequence.token_ids))]
            positions += range(first, end)
            slots += [sequence.block_table[i // size] * size + i % size for i in range(first, end)]
        numbers = torch.tensor([tokens, positions, slots]).to(self.device, non_blocking=True)
        lengths = self._lengths(batch).to(self.device) if self.needs_lengths else None
        attend = PagedAttend(self.network, self.caches, self._paged(batch, numbers[2]))  # type: ignore[arg-type]
        return self.network.forward(numbers[0], numbers[1], attend, lengths, adapt, watch)

    def salt(self, prompt_length: int) -> bytes:
        """What keys and values of a sequence depend on besides its tokens, see `_lengths`."""
        longer = self.needs_lengths and prompt_length > self.network.config.max_position_embeddings
        return b"%d" % prompt_length if longer else b""

    def _paged(self, batch: list[Scheduled], slots: torch.Tensor) -> PagedBatch:
        contexts = [item.sequence.num_computed + item.count for item in batch]
        widest = -(-max(contexts) // self.block_size)
        tables = np.zeros((len(batch), widest), dtype=np.int32)
        for row, item in zip(tables, batch, strict=True):
            table = item.sequence.block_table[:widest]
            row[: len(table)] = table
        starts = np.zeros(len(batch) + 1, dtype=np.int32)
        np.cumsum([item.count for item in batch], out=starts[1:])
        tables_, starts_, contexts_ = (
            torch.from_numpy(x).to(self.device, non_blocking=True)
            for x in (tables, starts, np.array(contexts, dtype=np.int32))
        )
        return PagedBatch(slots, tables_, starts_, contexts_, max(item.count for item in batch), max(contexts))

    def _lengths(self, batch: list[Scheduled]) -> torch.Tensor:
        """The length that dynamic scaling sees at each token.

        It is the prompt's for all of the prompt, whichever chunk they are in, and then grows with the answer: whether
        a token is computed for the first time or again makes no difference.
        """
        return torch.tensor(
            [
                max(item.sequence.prompt_length, place + 1)
                for item in batch
                for place in range(item.sequence.num_computed, item.sequence.num_computed + item.count)
            ]
        )
