"""Takes what the scheduler chose through the network, over paged keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from halfbyte.engine.transfer import upload
from halfbyte.kernels.interface import PagedBatch, PagedCaches

if TYPE_CHECKING:
    from halfbyte.engine.block_tables import BlockTables
    from halfbyte.engine.scheduler import Scheduled
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


class Runner:
    """The network and the memory for keys and values."""

    def __init__(
        self, network: Network, num_blocks: int, block_size: int, tables: BlockTables, kind: CacheKind = "auto"
    ) -> None:
        config = network.config
        self.network = network
        self.block_size = block_size
        self.tables = tables
        self.device = network.device
        with torch.inference_mode(False):  # what is made in inference mode could not be written outside it
            self.caches = [
                tuple(
                    network.kernels.kv_cache(num_blocks, config.num_kv_heads, block_size, config.head_dim, kind)
                    for _ in ("keys", "values")
                )
                for _ in range(config.num_layers)
            ]
        self.needs_lengths = config.rope.rope_type == "dynamic"

    @torch.inference_mode()
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
        size = self.block_size
        tokens = np.array(_tokens(batch), dtype=np.int64)
        counts = np.array([item.count for item in batch], dtype=np.int64)
        firsts = np.array([item.first for item in batch], dtype=np.int64)
        starts = np.zeros(len(batch) + 1, dtype=np.int32)
        counts.cumsum(out=starts[1:], dtype=np.int32)
        contexts = firsts + counts
        widest, longest = int(counts.max()), int(contexts.max())
        owners, positions = np.arange(len(batch)), firsts
        if widest > 1:
            owners = owners.repeat(counts)
            positions = np.arange(len(tokens)) + (firsts - starts[:-1])[owners]
        tables = self.tables.rows[:, : -(-longest // size)][[item.sequence.place for item in batch]]
        slots = tables[owners, positions // size] * np.int64(size) + positions % size
        numbers = [tokens, positions, slots, tables, starts, contexts.astype(np.int32)]
        if self.needs_lengths:
            numbers.append(_lengths(batch, owners, positions))
        tokens_, positions_, slots_, tables_, starts_, contexts_, *more = upload(numbers, self.device)
        paged = PagedBatch(slots_, tables_, starts_, contexts_, widest, longest)
        if widest > 1:
            paged.singles = int((counts > 1).argmax())
            paged.singles_context = int(contexts[: paged.singles].max(initial=0))
        attend = PagedAttend(self.network, self.caches, paged)  # type: ignore[arg-type]
        if chosen is not None:
            tokens_ = _with_chosen(tokens, tokens_, chosen)
        return self.network.forward(tokens_, positions_, attend, more[0] if more else None, adapt, watch)

    def salt(self, prompt_length: int) -> bytes:
        """What keys and values of a sequence depend on besides its tokens, see `_lengths`."""
        longer = self.needs_lengths and prompt_length > self.network.config.max_position_embeddings
        return b"%d" % prompt_length if longer else b""


def _tokens(batch: list[Scheduled]) -> list[int]:
    """Of all sequences; ~lane where it is not known here."""
    tokens: list[int] = []
    for item in batch:
        sequence, first = item.sequence, item.first
        known = sequence.token_ids
        if item.count == 1:  # the usual case
            tokens.append(known[first] if first < len(known) else ~sequence.lane)
        else:
            end = first + item.count
            tokens += known[first:end]
            tokens += sequence.draft[: max(0, end - len(known))]
    return tokens


def _with_chosen(tokens: np.ndarray, there: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """tokens: as _tokens gives them, on the device too as `there`."""
    if np.array_equal(~tokens, np.arange(len(chosen))):
        return chosen
    return torch.where(there < 0, chosen[(~there).clamp_(0)], there) if (tokens < 0).any() else there


def _lengths(batch: list[Scheduled], owners: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The length that dynamic scaling sees at each token.

    It is the prompt's for all of the prompt, whichever chunk they are in, and then grows with the answer: whether a
    token is computed for the first time or again makes no difference.
    """
    prompts = np.array([item.sequence.prompt_length for item in batch], dtype=np.int64)
    lengths: np.ndarray = np.maximum(prompts[owners], positions + 1)
    return lengths
