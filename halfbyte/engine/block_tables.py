"""The block tables of all sequences that hold blocks, as rows of one array: a pass takes its own by one gather."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


class BlockTables:
    """Grows as it must. What a row holds behind its sequence's blocks may be anything that is a block's number."""

    def __init__(self) -> None:
        self.rows = np.zeros((16, 16), dtype=np.int32)
        self._free = list(range(16))

    def take(self) -> int:
        """A row for a sequence."""
        if not self._free:
            rows = len(self.rows)
            self._free = list(range(rows, 2 * rows))
            self.rows = np.concatenate((self.rows, np.zeros_like(self.rows)))
        return self._free.pop()

    def write(self, row: int, first: int, blocks: Sequence[int]) -> None:
        """The sequence's blocks from its block `first` on."""
        end = first + len(blocks)
        while end > self.rows.shape[1]:
            self.rows = np.concatenate((self.rows, np.zeros_like(self.rows)), axis=1)
        self.rows[row, first:end] = blocks

    def give_back(self, row: int) -> None:
        """The sequence has no blocks any more."""
        self._free.append(row)
