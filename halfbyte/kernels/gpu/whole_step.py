"""A step of decoding one or two sequences as one kernel, see whole_step.cu."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from halfbyte.kernels.gpu.linear import arch_of
from halfbyte.kernels.gpu.step_network import ENTRIES, StepNetwork, step_kernel, up
from halfbyte.kernels.gpu.tiles import ROWS

if TYPE_CHECKING:
    from halfbyte.kernels.interface import PagedCaches

MOST = 2  # tokens of a step; from three on paired_step.cu is faster
WARPS = 16
MOST_PIECES = 16  # that a context is cut into
MOST_DEPTH = 32  # of a ring
LEAST_DEPTH = 2  # of a ring, below which it does not run ahead far enough to be worth it


class WholeStep:
    """For networks of 4-bit weights in groups of one size; `takes` says whether it can."""

    def __init__(self, network: StepNetwork) -> None:
        self.network = network

    def takes(self, T: int, past: PagedCaches) -> bool:
        """Whether T sequences with one new token each can go this way."""
        return 0 < T <= MOST and self.network.fits(past) and self._depth(T) >= LEAST_DEPTH

    def __call__(self, embedded: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, past: PagedCaches) -> torch.Tensor:
        """See interface.PassKernel; embedded [T, D] float32."""
        network, s, batch = self.network, self.network.shape, past.batch
        T, hidden = embedded.shape
        defines = self._defines(T, past.caches[0][0])
        half = partial(torch.empty, dtype=torch.float16, device=network.device)
        single = partial(torch.empty, dtype=torch.float32, device=network.device)
        qkv = half(T, (s.heads + 2 * s.kv_heads) * s.head_dim)
        parts = half(defines["PIECES"], T, s.heads, s.head_dim)
        activated = half(T, defines["FFN"])
        weights, residual, out = single(defines["PIECES"], T, s.heads), single(T, hidden), single(T, hidden)
        kernel = step_kernel("whole_step", arch_of(network.device), tuple(defines.items()))
        kernel(
            defines["GRID"], 32 * WARPS, defines["SHARED"],
            (network.table(past), embedded, residual, qkv, parts, weights, activated, out, network.spans[-1].norm,
             cos.contiguous(), sin.contiguous(), batch.slot_mapping, batch.block_tables, batch.context_lens,
             network.counter, batch.block_tables.stride(0), past.scale, s.eps), early=True, together=True,
        )  # fmt: skip
        return out

    def _defines(self, T: int, keys: torch.Tensor) -> dict[str, int]:
        network, depth = self.network, self._depth(T)
        grid = network.multiprocessors()
        pieces = min(max(grid // network.shape.kv_heads, 1), MOST_PIECES)
        own = {"PIECES": pieces, "GRID": grid, "WARPS": WARPS, "DEPTH": depth}
        return network.defines(T, keys) | own | {"SHARED": self._beside(T) + depth * self._place_bytes()}

    def _depth(self, T: int) -> int:
        return min((self.network.room() - self._beside(T)) // self._place_bytes(), MOST_DEPTH)

    def _place_bytes(self) -> int:
        """Of a place in all rings: two units, or one where tiles have an odd number of them."""
        odd = any(count % 2 for count in self.network.units())
        return WARPS * self.network.unit_bytes() * (1 if odd else 2)

    def _beside(self, T: int) -> int:
        """Bytes of shared memory beside the rings, as the kernel's `Shared` has them."""
        network, s, linears = self.network, self.network.shape, self.network.linears(0)
        grid, tiles = network.multiprocessors(), network.tiles()
        widest = max(linear.K for linear in linears)
        parts = (
            max(2 * T * (widest + 64), WARPS * (s.heads // s.kv_heads) * (s.head_dim + 2) * 4),  # x, results
            widest // linears[0].group * T * 8,  # groups
            (up(max(tiles), grid) + WARPS - 1) * ROWS * T * 4,  # slots
            up(tiles[1], grid) * ROWS * T * 4,  # own
            T * up(linears[0].K, 256) * 4,  # squares
            (len(network.spans) - 1) * ENTRIES * 8,  # layers
            2 * T * s.head_dim * 4,  # cos, sin
            WARPS * 8 * MOST_DEPTH,  # full
            4 * WARPS * 16,  # runs
        )
        return sum(up(part, 16) * 16 for part in parts) + 256
