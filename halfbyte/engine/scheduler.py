"""Which tokens of which sequences go into the next pass. Knows neither network nor device."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from heapq import merge
from operator import attrgetter
from typing import TYPE_CHECKING

from halfbyte.engine.block_pool import BlockPool, block_hashes
from halfbyte.engine.block_tables import BlockTables

if TYPE_CHECKING:
    from halfbyte.engine.sequence import Sequence

by_rank = attrgetter("rank")


@dataclass(slots=True)
class Scheduled:
    """A sequence's part of a pass: `count` tokens from its token `first` on, the last `drafted` of them guesses."""

    sequence: Sequence
    first: int
    count: int
    drafted: int = 0
    is_complete: bool = True  # whether the pass is to choose a next token


class Scheduler:
    """Serves sequences in the order of their rank: priority, then arrival.

    Each takes as many of its tokens as the pass still has room for, so that a long prompt is read in chunks beside
    the others' single tokens. When blocks run out, the last in rank gives its own back and will be computed again. A
    sequence is never overtaken for lack of blocks, so none starves among its equals.
    """

    def __init__(self, pool: BlockPool, block_size: int, max_tokens: int, max_seqs: int, *, caching: bool) -> None:
        """max_tokens, max_seqs: the most of a pass. caching: share blocks of equal beginnings."""
        self.pool = pool
        self.tables = BlockTables()
        self.block_size = block_size
        self.max_tokens = max_tokens
        self.max_seqs = max_seqs
        self.caching = caching
        self.waiting: list[Sequence] = []  # both in the order of rank; those that run hold blocks
        self.running: list[Sequence] = []
        self.preemptions = 0
        self.queried_tokens = 0  # of sequences that began, and
        self.cached_tokens = 0  # of these, found instead of computed

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        insort(self.waiting, sequence, key=by_rank)

    def schedule(self) -> list[Scheduled]:
        """The next pass. It is taken as under way until `computed` is told of each of its parts."""
        batch: list[Scheduled] = []
        room, size, preemptions = self.max_tokens, self.block_size, self.preemptions
        for sequence in self._in_order():
            if room == 0 or len(batch) == self.max_seqs:
                break
            is_new = not sequence.block_table
            if is_new:
                if self.preemptions > preemptions:
                    break  # blocks have just run out
                self._reuse_prefix(sequence)
            count = min(sequence.pending, room)
            if count <= 0:
                continue  # it ends with what is under way
            first = sequence.num_computed + sequence.ahead
            end = first + count
            if end > len(sequence.block_table) * size and not self._make_room(sequence, end):
                self._let_go(sequence) if is_new else None
                break
            if is_new:
                _remove(self.waiting, sequence)
                insort(self.running, sequence, key=by_rank)
                self.queried_tokens += len(sequence.token_ids)
                self.cached_tokens += sequence.num_computed
            batch.append(self._part(sequence, first, count))
            room -= count
        return batch

    def computed(self, sequence: Sequence, count: int, end: int) -> None:
        """Take note that a part of `count` tokens is done, and a sequence's tokens before `end` are in its blocks."""
        if not sequence.ahead:
            return  # it had to give its blocks back meanwhile
        sequence.ahead -= count
        before, full = sequence.num_computed // self.block_size, end // self.block_size
        sequence.num_computed = end
        if self.caching and full > before:
            hashes = self._hashes(sequence, end)
            for i in range(before, full):
                self.pool.remember(sequence.block_table[i], hashes[i])

    def recall(self) -> None:
        """Forget every pass that is under way: nothing will come of it."""
        for sequence in (*self.running, *self.waiting):
            sequence.ahead = sequence.unknown = 0

    def remove(self, sequence: Sequence, *, keep: bool = True) -> None:
        """A sequence has ended, at whatever point. keep=False: what it has computed must not be used again."""
        _remove(self.running if sequence.block_table else self.waiting, sequence)
        self._let_go(sequence, keep=keep)
        sequence.ended = True

    def _in_order(self) -> list[Sequence]:
        waiting = self.waiting[: self.max_seqs]
        if waiting and self.running and waiting[0].rank < self.running[-1].rank:
            return list(merge(self.running, waiting, key=by_rank))
        return self.running + waiting

    def _part(self, sequence: Sequence, first: int, count: int) -> Scheduled:
        known = len(sequence.token_ids) + sequence.unknown
        end = first + count
        part = Scheduled(sequence, first, count)
        if end < known or sequence.request.pooling:
            part.is_complete = False
        else:
            part.drafted = end - known
            sequence.unknown += 1
        sequence.ahead += count
        return part

    def _make_room(self, sequence: Sequence, end: int) -> bool:
        """Give a sequence the blocks that its tokens before `end` take, if need be by preempting those behind it."""
        missing = -(-end // self.block_size) - len(sequence.block_table)
        while missing > self.pool.available:
            if not self.running or self.running[-1].rank <= sequence.rank:
                return False
            self._preempt(self.running[-1])
        self._hold(sequence, self.pool.allocate(max(missing, 0)))
        return True

    def _hold(self, sequence: Sequence, blocks: list[int]) -> None:
        if sequence.place < 0:
            sequence.place = self.tables.take()
        self.tables.write(sequence.place, len(sequence.block_table), blocks)
        sequence.block_table += blocks

    def _preempt(self, sequence: Sequence) -> None:
        _remove(self.running, sequence)
        self._let_go(sequence)
        self.add(sequence)
        self.preemptions += 1

    def _reuse_prefix(self, sequence: Sequence) -> None:
        """Begin with cached blocks, but leave at least the last token to compute: its logits are needed."""
        if self.caching and sequence.may_reuse_prefix:
            full = (len(sequence.token_ids) - 1) // self.block_size
            self._hold(sequence, self.pool.share(self._hashes(sequence, full * self.block_size)[:full]))
            sequence.num_computed = len(sequence.block_table) * self.block_size

    def _let_go(self, sequence: Sequence, *, keep: bool = True) -> None:
        self.pool.release(sequence.block_table, keep=keep)
        if sequence.place >= 0:
            self.tables.give_back(sequence.place)
        sequence.block_table, sequence.place = [], -1
        sequence.num_computed, sequence.ahead, sequence.draft = 0, 0, []

    def _hashes(self, sequence: Sequence, end: int) -> list[bytes]:
        return block_hashes(sequence.block_hashes, sequence.cache_salt, sequence.token_ids, self.block_size, end)


def _remove(queue: list[Sequence], sequence: Sequence) -> None:
    place = bisect_left(queue, sequence.rank, key=by_rank)
    assert queue[place] is sequence
    del queue[place]
