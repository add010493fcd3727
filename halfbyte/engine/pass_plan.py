"""A pass as plain arrays: which tokens go through the network, and where their keys and values lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from halfbyte.engine.block_tables import BlockTables
    from halfbyte.engine.scheduler import Scheduled


FEW = 32  # sequences
STARTS = np.arange(FEW + 1, dtype=np.int32)


@dataclass(slots=True)
class PassPlan:
    """What a process needs to know to take its share of a pass, pickled to those that hold another share.

    For T tokens of S sequences; the fields that PagedBatch has too are as there.
    """

    tokens: np.ndarray  # int64 [T]; ~lane where it is what the pass before chose
    positions: np.ndarray  # int64 [T]
    slot_mapping: np.ndarray  # int64 [T]
    block_tables: np.ndarray  # int32 [S, most blocks]
    query_start: np.ndarray  # int32 [S + 1]
    context_lens: np.ndarray  # int32 [S]
    lengths: np.ndarray | None  # int64 [T], where rotary scaling asks for them
    max_query: int
    max_context: int
    is_known: bool  # whether all tokens are
    singles: int = 0
    singles_context: int = 0
    fresh: int = 0
    fresh_start: int = 0
    fresh_longest: int = 0

    def arrays(self) -> list[np.ndarray]:
        """All that goes to the device, in the order of the fields."""
        found = [self.tokens, self.positions, self.slot_mapping, self.block_tables, self.query_start, self.context_lens]
        return found if self.lengths is None else [*found, self.lengths]


def plan_pass(batch: Sequence[Scheduled], tables: BlockTables, block_size: int, *, needs_lengths: bool) -> PassPlan:
    """The tokens that the scheduler chose, one sequence behind the other."""
    if len(batch) <= FEW and not needs_lengths and all([item.count == 1 for item in batch]):  # noqa: C419  in every step
        return _plan_few(batch, tables, block_size)
    listed = _tokens(batch)
    tokens = np.array(listed, dtype=np.int64)
    counts = np.array([item.count for item in batch], dtype=np.int64)
    firsts = np.array([item.first for item in batch], dtype=np.int64)
    starts = np.arange(len(batch) + 1, dtype=np.int32)
    contexts = firsts + counts
    widest, longest = int(counts.max()), int(contexts.max())
    owners, positions = np.arange(len(batch)), firsts
    singles = singles_context = fresh = fresh_start = fresh_longest = 0
    if widest > 1:
        counts.cumsum(out=starts[1:], dtype=np.int32)
        owners = owners.repeat(counts)
        positions = np.arange(len(tokens)) + (firsts - starts[:-1])[owners]
        singles = int((counts > 1).argmax())
        singles_context = int(contexts[:singles].max(initial=0))
        fresh = int((firsts[::-1] == 0).cumprod().sum())
        fresh_start, fresh_longest = int(starts[len(batch) - fresh]), int(counts[len(batch) - fresh :].max(initial=0))
    rows = tables.rows[:, : -(-longest // block_size)][[item.sequence.place for item in batch]]
    slots = rows[owners, positions // block_size] * np.int64(block_size) + positions % block_size
    lengths = _lengths(batch, owners, positions) if needs_lengths else None
    contexts = contexts.astype(np.int32)
    is_known = min(listed) >= 0
    return PassPlan(
        tokens, positions, slots, rows, starts, contexts, lengths, widest, longest, is_known,
        singles, singles_context, fresh, fresh_start, fresh_longest,
    )  # fmt: skip


def _plan_few(batch: Sequence[Scheduled], tables: BlockTables, block_size: int) -> PassPlan:
    """The same for a few sequences of one token each, where numpy takes longer to begin than there is to do."""
    listed, firsts = _tokens(batch), [item.first for item in batch]
    longest = max(firsts) + 1
    rows = tables.rows[[item.sequence.place for item in batch], : -(-longest // block_size)]
    blocks = [rows.item(row, first // block_size) for row, first in enumerate(firsts)]
    slots = [block * block_size + first % block_size for block, first in zip(blocks, firsts, strict=True)]
    return PassPlan(
        np.array(listed, dtype=np.int64), np.array(firsts, dtype=np.int64), np.array(slots, dtype=np.int64), rows,
        STARTS[: len(batch) + 1], np.array([first + 1 for first in firsts], dtype=np.int32), None, 1, longest,
        min(listed) >= 0,
    )  # fmt: skip


def _tokens(batch: Sequence[Scheduled]) -> list[int]:
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


def _lengths(batch: Sequence[Scheduled], owners: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The length that dynamic scaling sees at each token.

    It is the prompt's for all of the prompt, whichever chunk they are in, and then grows with the answer: whether a
    token is computed for the first time or again makes no difference.
    """
    prompts = np.array([item.sequence.prompt_length for item in batch], dtype=np.int64)
    lengths: np.ndarray = np.maximum(prompts[owners], positions + 1)
    return lengths
