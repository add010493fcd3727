"""The blocks that keys and values lie in: who holds which, and what those that nobody holds still contain."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class BlockPool:
    """Blocks with reference counts, and the prefix cache.

    A full block is known by a hash of all tokens up to its end. A block that nobody holds keeps its contents until it
    is needed for others; the one that was let go longest ago is taken first.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._references = [0] * count
        self._free = OrderedDict.fromkeys(range(count))  # in the order in which they are to be taken
        self._hashes: list[bytes | None] = [None] * count
        self._by_hash: dict[bytes, int] = {}

    @property
    def available(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    def allocate(self, count: int) -> list[int]:
        """Take blocks whose contents are lost. There must be so many available."""
        blocks = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in blocks:
            self._references[block] = 1
            self._forget(block)
        return blocks

    def share(self, hashes: Iterable[bytes]) -> list[int]:
        """Hold the blocks that contain a beginning of this chain of hashes, as far as they are there."""
        blocks = []
        for digest in hashes:
            block = self._by_hash.get(digest)
            if block is None:
                break
            self._references[block] += 1
            self._free.pop(block, None)
            blocks.append(block)
        return blocks

    def release(self, blocks: Sequence[int], *, keep: bool = True) -> None:
        """Let a sequence's blocks go; its last ones are taken again first. keep=False: their contents are bad."""
        for block in reversed(blocks):
            assert self._references[block] > 0, f"block {block} was freed twice"
            self._references[block] -= 1
            if not keep:
                self._forget(block)
            if self._references[block] == 0:
                self._free[block] = None
                self._free.move_to_end(block, last=self._hashes[block] is not None)

    def remember(self, block: int, digest: bytes) -> None:
        """The block is full, and this is what it contains. Of two that contain the same the first is known."""
        if digest not in self._by_hash and self._hashes[block] is None:
            self._hashes[block] = digest
            self._by_hash[digest] = block

    def check_idle(self) -> None:
        """Assert that all memory was given back: for when no request is there."""
        assert self.available == self.count, f"{self.count - self.available} of {self.count} blocks were leaked"
        assert not any(self._references)
        assert all(self._hashes[block] == digest for digest, block in self._by_hash.items())
        assert sum(digest is not None for digest in self._hashes) == len(self._by_hash)

    def _forget(self, block: int) -> None:
        digest, self._hashes[block] = self._hashes[block], None
        if digest is not None:
            del self._by_hash[digest]


def block_hashes(known: list[bytes], salt: bytes, tokens: Sequence[int], block_size: int, end: int) -> list[bytes]:
    """Extend `known`, the hashes of a sequence's first blocks, to all that are full with `end` tokens.

    salt: what else keys and values depend on (an adapter).
    """
    for i in range(len(known), end // block_size):
        before = known[-1] if known else salt
        part = array("q", tokens[i * block_size : (i + 1) * block_size]).tobytes()
        known.append(hashlib.blake2b(part, key=hashlib.blake2b(before).digest()[:32], digest_size=32).digest())
    return known
