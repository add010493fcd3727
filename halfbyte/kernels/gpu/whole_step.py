"""A step of decoding a few sequences as one kernel, see whole_step.cu."""

from __future__ import annotations

from functools import cache, partial
from importlib.resources import files
from typing import TYPE_CHECKING

import torch

from halfbyte.kernels.cuda.compile import compiled
from halfbyte.kernels.cuda.launch import CudaKernel
from halfbyte.kernels.gpu.linear import GpuLinear, arch_of
from halfbyte.kernels.gpu.tiles import COLUMNS, ROWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from halfbyte.kernels.gpu.gpu_span import GpuSpan
    from halfbyte.kernels.interface import PagedCaches, PassShape

MOST = 4  # tokens of a step
WARPS = 16
LEAST = (9, 0)  # compute capability: bulk copies
MOST_SHARING = 4  # query heads of a key-value head: a lane keeps a part of each in registers
MOST_PIECES = 16  # that a context is cut into
MOST_DEPTH = 32  # of a ring
LEAST_DEPTH = 2  # of a ring, below which it does not run ahead far enough to be worth it
ENTRIES = 16  # of a layer in the kernel's table of pointers


class WholeStep:
    """For networks of 4-bit weights in groups of one size; `takes` says whether it can."""

    def __init__(
        self,
        shape: PassShape,
        spans: Sequence[GpuSpan],
        norms: Sequence[tuple[torch.Tensor, ...] | None],
        device: torch.device,
    ) -> None:
        """norms: of each layer's q and k, where there are."""
        self.shape, self.spans, self.norms, self.device = shape, spans, norms, device
        self.counter = torch.zeros(2, dtype=torch.int32, device=device)  # see Barrier in whole_step.cu
        self.tables: dict[int, torch.Tensor] = {}

    def takes(self, T: int, past: PagedCaches) -> bool:
        """Whether T sequences with one new token each can go this way."""
        s, spans = self.shape, self.spans
        linears = [linear for layer in range(len(spans) - 1) for linear in self._linears(layer)]
        keys = past.caches[0][0]
        lanes = s.head_dim // _numbers_of_a_lane(keys)
        return (
            torch.cuda.get_device_capability(self.device) >= LEAST
            and keys.dtype != torch.int8
            and 0 < T <= MOST
            and all(span.streams and span.eps == s.eps for span in spans)
            and all(linear.group == linears[0].group > 0 for linear in linears)
            and all(linear.K % max(linear.group, COLUMNS) == 0 for linear in linears)
            and (all(self.norms) or not any(self.norms))
            and s.heads % s.kv_heads == 0
            and s.heads // s.kv_heads <= MOST_SHARING
            and s.head_dim % 32 == 0
            and lanes in (2, 4, 8, 16)
            and self._depth(T, keys) >= LEAST_DEPTH
        )

    def __call__(self, embedded: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, past: PagedCaches) -> torch.Tensor:
        """See interface.PassKernel; embedded [T, D] float32."""
        s, batch = self.shape, past.batch
        T, hidden = embedded.shape
        keys = past.caches[0][0]
        defines = self._defines(T, keys)
        half = partial(torch.empty, dtype=torch.float16, device=self.device)
        single = partial(torch.empty, dtype=torch.float32, device=self.device)
        qkv = half(T, (s.heads + 2 * s.kv_heads) * s.head_dim)
        parts = half(defines["PIECES"], T, s.heads, s.head_dim)
        activated = half(T, defines["FFN"])
        weights, residual, out = single(defines["PIECES"], T, s.heads), single(T, hidden), single(T, hidden)
        kernel = _kernel(arch_of(self.device), tuple(defines.items()))
        kernel(
            defines["GRID"], 32 * WARPS, defines["SHARED"],
            (self._table(past), embedded, residual, qkv, parts, weights, activated, out, self.spans[-1].norm,
             cos.contiguous(), sin.contiguous(), batch.slot_mapping, batch.block_tables, batch.context_lens,
             self.counter, batch.block_tables.stride(0), past.scale, s.eps), early=True, together=True,
        )  # fmt: skip
        return out

    def _linears(self, layer: int) -> list[GpuLinear]:
        qkv, after = self.spans[layer].qkv, self.spans[layer + 1]
        assert qkv is not None
        return [qkv, after.o, after.gate_up, after.down]

    def _table(self, past: PagedCaches) -> torch.Tensor:
        key = past.caches[0][0].data_ptr()
        if key not in self.tables:
            rows = []
            for layer, ((keys, values), window) in enumerate(zip(past.caches, past.windows, strict=True)):
                linears = self._linears(layer)
                pointers = [linear.data for linear in linears] + [linear.bias for linear in linears]
                pointers += [self.spans[layer].norm, self.spans[layer + 1].after_norm, keys, values]
                pointers += self.norms[layer] or (None, None)
                row = [0 if tensor is None else tensor.data_ptr() for tensor in pointers] + [window or 0]
                rows.append(row + [0] * (ENTRIES - len(row)))
            self.tables = {key: torch.tensor(rows, dtype=torch.int64).to(self.device)}
        return self.tables[key]

    def _defines(self, T: int, keys: torch.Tensor) -> dict[str, int]:
        s = self.shape
        qkv, _, _, down = self._linears(0)
        grid = torch.cuda.get_device_properties(self.device).multi_processor_count
        pieces = min(max(grid // s.kv_heads, 1), MOST_PIECES)
        depth = self._depth(T, keys)
        return {
            "BATCH": T, "LAYERS": len(self.spans) - 1, "HIDDEN": qkv.K, "FFN": down.K, "HEADS": s.heads,
            "KV_HEADS": s.kv_heads, "D": s.head_dim, "GROUP": qkv.group, "BLOCK": keys.shape[2],
            "FP8": int(keys.element_size() == 1), "NORMS": int(any(self.norms)), "PIECES": pieces,
            "LEAST": max(16 * s.kv_heads, 64), "GRID": grid, "WARPS": WARPS, "DEPTH": depth,
            "SHARED": self._beside(T, keys) + depth * self._place_bytes(),
        }  # fmt: skip

    def _depth(self, T: int, keys: torch.Tensor) -> int:
        properties = torch.cuda.get_device_properties(self.device)
        room: int = properties.shared_memory_per_block_optin - self._beside(T, keys)  # type: ignore[attr-defined]
        return min(room // self._place_bytes(), MOST_DEPTH)

    def _place_bytes(self) -> int:
        """Of a place in all rings: two units, or one where tiles have an odd number of them."""
        linears = self._linears(0)
        group = linears[0].group
        units = [linear.K // max(group, COLUMNS) for linear in linears]
        return WARPS * _unit_bytes(group) * (1 if any(count % 2 for count in units) else 2)

    def _beside(self, T: int, keys: torch.Tensor) -> int:
        """Bytes of shared memory beside the rings, as the kernel's `Shared` has them."""
        s, linears = self.shape, self._linears(0)
        grid = torch.cuda.get_device_properties(self.device).multi_processor_count
        widest = max(linear.K for linear in linears)
        tiles = [-(-linear.N // ROWS) for linear in linears]
        parts = (
            max(2 * T * (widest + 64), WARPS * (s.heads // s.kv_heads) * (s.head_dim + 2) * 4),  # x, results
            widest // linears[0].group * T * 8,  # groups
            (-(-max(tiles) // grid) + WARPS - 1) * ROWS * T * 4,  # slots
            -(-tiles[1] // grid) * ROWS * T * 4,  # own
            T * -(-linears[0].K // 256) * 4,  # squares
            (len(self.spans) - 1) * ENTRIES * 8,  # layers
            2 * T * s.head_dim * 4,  # cos, sin
            WARPS * 8 * MOST_DEPTH,  # full
            4 * WARPS * 16,  # runs
        )
        return sum(-(-part // 16) * 16 for part in parts) + 256


def _numbers_of_a_lane(keys: torch.Tensor) -> int:
    return 16 // keys.element_size()


def _unit_bytes(group: int) -> int:
    """See tiles.py."""
    return 512 * (2 if group == 128 else 1) + 64 * (2 if group == 32 else 1)


@cache
def _kernel(arch: str, defines: tuple[tuple[str, int], ...]) -> CudaKernel:
    source = (files("halfbyte.kernels.cuda") / "whole_step.cu").read_text()
    return CudaKernel(compiled(source, dict(defines), arch), "whole_step", dict(defines)["SHARED"])
