"""A step of decoding three to sixteen sequences as one kernel, see paired_step.cu."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from halfbyte.kernels.gpu.linear import arch_of
from halfbyte.kernels.gpu.step_network import ENTRIES, StepNetwork, step_kernel, up
from halfbyte.kernels.gpu.tiles import COLUMNS, ROWS

if TYPE_CHECKING:
    from halfbyte.kernels.interface import PagedCaches

MOST = 16  # tokens of a step
MOST_ALONE = 4  # tokens up to which a thread block attends to one piece of a context at a time
EIGHT = 8  # tokens that a product takes at once
WARPS = 8  # that multiply and attend
CHUNKS = 8  # of a tile, at once
SERVING = 8  # warps that do not multiply
MOST_PIECES = 16  # that a context is cut into
MOST_OWN = 32  # tiles of a thread block
MOST_DEPTH = 16  # of a ring
LEAST_DEPTH = 2  # of a ring, below which it does not run ahead far enough to be worth it


class PairedStep:
    """For networks of 4-bit weights in groups of one size; `takes` says whether it can."""

    def __init__(self, network: StepNetwork) -> None:
        self.network = network
        pieces = MOST * network.shape.kv_heads
        self.counts = torch.zeros(pieces, dtype=torch.int32, device=network.device)  # see give_piece in the kernel

    def takes(self, T: int, past: PagedCaches) -> bool:
        """Whether T sequences with one new token each can go this way."""
        return (
            0 < T <= MOST
            and self.network.fits(past)
            and max(self._tiles()) <= 2 * MOST_OWN
            and self._depth(T, past.caches[0][0]) >= LEAST_DEPTH
        )

    def __call__(self, embedded: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, past: PagedCaches) -> torch.Tensor:
        """See interface.PassKernel; embedded [T, D] float32."""
        network, s, batch = self.network, self.network.shape, past.batch
        T, hidden = embedded.shape
        defines = self._defines(T, past.caches[0][0])
        half = partial(torch.empty, dtype=torch.float16, device=network.device)
        single = partial(torch.empty, dtype=torch.float32, device=network.device)
        kept, pieces = _kept(T), defines["PIECES"]
        stream, attended, activated = half(hidden, kept), half(s.heads * s.head_dim, kept), half(defines["FFN"], kept)
        qkv = half(T, (s.heads + 2 * s.kv_heads) * s.head_dim)
        parts, weights = single(pieces, T, s.heads, s.head_dim), single(pieces, T, s.heads)
        squares, out = single(T, up(hidden, ROWS)), single(T, hidden)
        kernel = step_kernel("paired_step", arch_of(network.device) + "a", tuple(defines.items()))
        kernel(
            defines["GRID"], 32 * (WARPS + SERVING), defines["SHARED"],
            (network.table(past), embedded, stream, attended, activated, qkv, parts, weights, squares, self.counts, out,
             network.spans[-1].norm, cos.contiguous(), sin.contiguous(), batch.slot_mapping, batch.block_tables,
             batch.context_lens, network.counter, batch.block_tables.stride(0), past.scale, s.eps),
            early=True, together=True,
        )  # fmt: skip
        return out

    def _defines(self, T: int, keys: torch.Tensor) -> dict[str, int]:
        network, depth = self.network, self._depth(T, keys)
        pieces = min(max(self._grid() // network.shape.kv_heads, 1), MOST_PIECES)
        own = {"PIECES": pieces, "AHEAD": self._ahead(keys), "TEAMS": _teams(T), "GRID": self._grid(), "DEPTH": depth}
        return network.defines(T, keys) | own | {"SHARED": self._beside(T, keys) + depth * self._place_bytes(T)}

    def _grid(self) -> int:
        """Thread blocks: one a multiprocessor, in pairs."""
        return self.network.multiprocessors() // 2 * 2

    def _ahead(self, keys: torch.Tensor) -> int:
        """Loads of keys that a lane has under way: as many as its registers hold beside what else is in them."""
        sharing = self.network.shape.heads // self.network.shape.kv_heads
        return max((8 if keys.element_size() == 2 else 4) // sharing, 2)

    def _depth(self, T: int, keys: torch.Tensor) -> int:
        return min((self.network.room() - self._beside(T, keys)) // self._place_bytes(T), MOST_DEPTH)

    def _units_of_a_chunk(self) -> int:
        """What goes to a warp at once: 256 columns, or what every product has whole ones of."""
        most = (4, 2, 1) if self.network.linears(0)[0].group < 128 else (2, 1)
        return next(per for per in most if all(units % per == 0 for units in self.network.units()))

    def _place_bytes(self, T: int) -> int:
        """Of a place in all rings."""
        return _crews(T) * CHUNKS * self._units_of_a_chunk() * self.network.unit_bytes()

    def _tiles(self) -> list[int]:
        """Of a pair of thread blocks, in each product."""
        return [up(tiles, self._grid() // 2) for tiles in self.network.tiles()]

    def _beside(self, T: int, keys: torch.Tensor) -> int:
        """Bytes of shared memory beside the rings, as the kernel's `Shared` has them."""
        network, s, linears, tiles = self.network, self.network.shape, self.network.linears(0), self._tiles()
        columns = self._units_of_a_chunk() * max(linears[0].group, COLUMNS)
        rounds = [up(up(linear.K // columns, 2), CHUNKS) for linear in linears]
        in_rounds = max([1, *(t for t, r in zip(tiles, rounds, strict=True) if r > 1)])
        crew, slots = WARPS // _crews(T), 16 if T <= EIGHT else 4
        most_own, own, tile = up(max(tiles), 2), up(tiles[1], 2), ROWS * _kept(T) * 4
        parts = (
            max(slots * crew * tile, WARPS * (s.heads // s.kv_heads) * (s.head_dim + 4) * 4),  # sums, results
            (most_own + in_rounds + own) * tile,  # theirs, kept, own
            most_own * ROWS * 4,  # bias
            own * ROWS * 4,  # gain
            2 * _kept(T) * 4,  # factors, missing
            (len(network.spans) - 1) * ENTRIES * 8,  # layers
            2 * T * s.head_dim * 4,  # cos, sin
            32 * MOST_DEPTH + 16 * slots + 8 * most_own + 16,  # what is waited for
            self._ahead(keys) * WARPS * 32 * 4,  # known
            T * 12 + WARPS * 4,  # slots, contexts, is_last
        )
        return sum(up(part, 16) * 16 for part in parts) + 256


def _kept(T: int) -> int:
    """Tokens that x has room for."""
    return up(T, EIGHT) * EIGHT


def _crews(T: int) -> int:
    """Into which the warps that multiply are divided."""
    return 2 if T <= EIGHT else 1


def _teams(T: int) -> int:
    """Of a thread block's warps, each of which attends to a piece of a context."""
    return 1 if T <= MOST_ALONE else 4
