"""Which replica answers a prompt: the one that has read most of its beginning, unless others have much less to do."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ALLOWANCE = 4  # requests by which a replica that knows the prompt may be ahead of the idlest one, and
FACTOR = 2  # times as many: a prompt is read once, but a long queue is waited for at each step
MOST_BLOCKS = 65536  # remembered of a replica, until it has said how many it keeps


class PrefixRouter:
    """Remembers what each replica was given, in blocks of tokens, as their prefix caches do."""

    def __init__(self, block_size: int = 16) -> None:
        """block_size: tokens of a block of the engines' caches."""
        self._block_size = block_size
        self._seen: dict[int, OrderedDict[int, None]] = {}
        self._capacity: dict[int, int] = {}

    def choose(self, token_ids: Sequence[int], loads: Mapping[int, int], *, adapter: str | None = None) -> int:
        """One of the replicas in `loads`, which holds how many requests each has; it is taken to read the prompt.

        Among those that have at most FACTOR times as many requests as the idlest and ALLOWANCE more, the one that was
        given the longest beginning of the prompt; of equal ones the one with the fewest requests, then the lowest
        number. adapter: what a prompt leaves in a cache under an adapter serves only that adapter.
        """
        hashes = self._hash(token_ids, adapter)
        most = min(loads.values()) * FACTOR + ALLOWANCE
        fit = [replica for replica, load in loads.items() if load <= most]
        chosen = min(fit, key=lambda replica: (-self._matched(replica, hashes), loads[replica], replica))
        self._remember(chosen, hashes)
        return chosen

    def matched_tokens(self, replica: int, token_ids: Sequence[int], *, adapter: str | None = None) -> int:
        """How much of a prompt's beginning a replica was given before."""
        return self._matched(replica, self._hash(token_ids, adapter)) * self._block_size

    def resize(self, replica: int, blocks: int) -> None:
        """So many blocks the replica's cache holds; more is not remembered of it."""
        self._capacity[replica] = blocks

    def forget(self, replica: int) -> None:
        """The replica begins again, with an empty cache."""
        self._seen.pop(replica, None)

    def _hash(self, token_ids: Sequence[int], adapter: str | None) -> list[int]:
        """Of each whole block, with all before it."""
        size = self._block_size
        hashes, before = [], hash(adapter)
        for end in range(size, len(token_ids) + 1, size):
            before = hash((before, *token_ids[end - size : end]))
            hashes.append(before)
        return hashes

    def _matched(self, replica: int, hashes: Sequence[int]) -> int:
        seen = self._seen.get(replica, ())
        for count, each in enumerate(hashes):
            if each not in seen:
                return count
        return len(hashes)

    def _remember(self, replica: int, hashes: Sequence[int]) -> None:
        seen = self._seen.setdefault(replica, OrderedDict())
        for each in reversed(hashes):  # the beginning is the freshest: without it the rest is worth nothing
            seen[each] = None
            seen.move_to_end(each)
        while len(seen) > self._capacity.get(replica, MOST_BLOCKS):
            seen.popitem(last=False)
