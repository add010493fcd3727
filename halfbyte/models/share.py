"""What each of several processes has of a network that they compute together (tensor parallel, arXiv:1909.08053).

A process has some of the heads and some columns of the MLP: rows of q, k, v, gate and up, and the columns of o and down
that these feed. So a block needs two sums over all processes, behind o and behind down, and nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from halfbyte.errors import ConfigError

if TYPE_CHECKING:
    from halfbyte.checkpoint.config import ModelConfig

UNITS = (128, 64, 32, 16, 8, 4, 2, 1)  # columns of the MLP that stay together: the first of which there are enough
HEAD_ROWS = 64  # of the output embedding: shares are a multiple of it


@dataclass(frozen=True, slots=True)
class Share:
    """One process's, the `rank`th of `ranks`."""

    whole: ModelConfig  # the network that it is a share of
    rank: int
    ranks: int
    heads: range  # of queries
    kv_heads: range  # of keys and values; where there are fewer than processes, several have the same one
    mlp: range  # outputs of gate and of up, inputs of down
    vocab: range  # rows of the output embedding
    head_rows: int  # as many as they are filled up to

    @property
    def config(self) -> ModelConfig:
        """The network that this process has, as its kernels and its cache see it."""
        heads, kv_heads, mlp = len(self.heads), len(self.kv_heads), len(self.mlp)
        return replace(self.whole, num_heads=heads, num_kv_heads=kv_heads, intermediate_size=mlp)

    def outputs(self, projection: str, head_dim: int) -> range | None:
        """The rows that are here of "q", "k", "v", "gate" or "up"; None for "o" and "down": all."""
        kv = _times(self.kv_heads, head_dim)
        rows = {"q": _times(self.heads, head_dim), "k": kv, "v": kv, "gate": self.mlp, "up": self.mlp}
        return rows.get(projection)

    def inputs(self, projection: str, head_dim: int) -> range | None:
        """The columns that are here of "o" or "down"; None for the others: all."""
        return {"o": _times(self.heads, head_dim), "down": self.mlp}.get(projection)


def divide(config: ModelConfig, ranks: int, group: int = 1) -> list[Share]:
    """Deal a network out. group: weights of the MLP that share a scale; shares are whole groups where there are enough.

    Heads that share keys stay together, and shares need not be equal: 86 groups over 4 processes are 21, 21, 22 and 22.
    Raises ConfigError if heads, or columns of the MLP, cannot be dealt out to so many.
    """
    heads = _heads(config, ranks)
    unit = mlp_unit(config.intermediate_size, ranks, group)
    units = _even(config.intermediate_size // unit, ranks)[::-1]  # who has more of the heads has less of these
    rows = HEAD_ROWS * -(-config.vocab_size // (HEAD_ROWS * ranks))
    shares, begin = [], 0
    for rank, count in enumerate(units):
        mlp = range(begin * unit, (begin + count) * unit)
        vocab = range(min(rank * rows, config.vocab_size), min((rank + 1) * rows, config.vocab_size))
        shares.append(Share(config, rank, ranks, *heads[rank], mlp, vocab, rows))
        begin += count
    return shares


def mlp_unit(columns: int, ranks: int, group: int) -> int:
    """How many columns of the MLP stay together: whole groups, and as many as kernels like, where there are enough."""
    for unit in (*(math.lcm(group, u) for u in UNITS), *UNITS):
        if columns % unit == 0 and columns // unit >= ranks:
            return unit
    raise ConfigError(
        f"tensor_parallel_size is {ranks}, and the MLP has {columns} columns to deal out; it can be {columns} at most"
    )


def describe(shares: list[Share]) -> str:
    """For the log: who has how much."""

    def each(field: str) -> str:
        counts = [len(getattr(share, field)) for share in shares]
        return f"{counts[0]} each" if len(set(counts)) == 1 else ", ".join(map(str, counts))

    parts = [f"heads: {each('heads')}", f"key-value heads: {each('kv_heads')}", f"columns of the MLP: {each('mlp')}"]
    return "; ".join(parts)


def _heads(config: ModelConfig, ranks: int) -> list[tuple[range, range]]:
    """Query and key-value heads of each process."""
    kv_heads = config.num_kv_heads
    sharing = config.num_heads // kv_heads  # query heads of one key-value head
    found, begin = [], 0
    if ranks <= kv_heads:
        for count in _even(kv_heads, ranks):
            kv = range(begin, begin + count)
            found.append((_times(kv, sharing), kv))
            begin += count
        return found
    copies = ranks // kv_heads
    if ranks % kv_heads or sharing % copies:
        more = [str(kv_heads * n) for n in range(2, sharing + 1) if sharing % n == 0]
        raise ConfigError(
            f"tensor_parallel_size is {ranks}, and {config.num_heads} query heads on {kv_heads} key-value heads cannot "
            f"be dealt out to so many: it can be up to {kv_heads}" + (f", or {', '.join(more)}" if more else "")
        )
    for rank in range(ranks):
        own = sharing // copies
        found.append((range(rank * own, (rank + 1) * own), range(rank // copies, rank // copies + 1)))
    return found


def _even(count: int, parts: int) -> list[int]:
    """As even as can be, the larger ones first."""
    return [count // parts + (i < count % parts) for i in range(parts)]


def _times(heads: range, size: int) -> range:
    return range(heads.start * size, heads.stop * size)
