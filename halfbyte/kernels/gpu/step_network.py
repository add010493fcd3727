"""What the kernels of a whole step are given: a network of 4-bit weights on one GPU, and where it lies."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import torch

from halfbyte.kernels.cuda.compile import compiled
from halfbyte.kernels.cuda.launch import CudaKernel
from halfbyte.kernels.gpu.tiles import COLUMNS, ROWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from halfbyte.kernels.gpu.gpu_span import GpuSpan
    from halfbyte.kernels.gpu.linear import GpuLinear
    from halfbyte.kernels.interface import PagedCaches, PassShape

LEAST = (9, 0)  # compute capability: bulk copies, clusters
MOST_SHARING = 4  # query heads of a key-value head: a lane keeps a part of each in registers
ENTRIES = 16  # of a layer in the kernels' table of pointers


class StepNetwork:
    """A network, as `whole_step.cu` and `paired_step.cu` take it."""

    def __init__(
        self,
        shape: PassShape,
        spans: Sequence[GpuSpan],
        norms: Sequence[tuple[torch.Tensor, ...] | None],
        device: torch.device,
    ) -> None:
        """norms: of each layer's q and k, where there are."""
        self.shape, self.spans, self.norms, self.device = shape, spans, norms, device
        self.counter = torch.zeros(2, dtype=torch.int32, device=device)  # of the grid's barrier; kernels leave it so
        self.tables: dict[int, torch.Tensor] = {}

    def fits(self, past: PagedCaches) -> bool:
        """Whether the kernels know such a network and such caches, on this GPU."""
        s, spans = self.shape, self.spans
        linears = [linear for layer in range(len(spans) - 1) for linear in self.linears(layer)]
        keys = past.caches[0][0]
        return (
            torch.cuda.get_device_capability(self.device) >= LEAST
            and keys.dtype != torch.int8
            and all(span.streams and span.eps == s.eps for span in spans)
            and all(linear.group == linears[0].group > 0 for linear in linears)
            and all(linear.K % max(linear.group, COLUMNS) == 0 for linear in linears)
            and (all(self.norms) or not any(self.norms))
            and s.heads % s.kv_heads == 0
            and s.heads // s.kv_heads <= MOST_SHARING
            and s.head_dim % 32 == 0
            and s.head_dim // (16 // keys.element_size()) in (2, 4, 8, 16)  # lanes that share a token
        )

    def linears(self, layer: int) -> list[GpuLinear]:
        """A layer's qkv, o, gate and up, down."""
        qkv, after = self.spans[layer].qkv, self.spans[layer + 1]
        assert qkv is not None
        return [qkv, after.o, after.gate_up, after.down]

    def table(self, past: PagedCaches) -> torch.Tensor:
        """Int64 [layers, ENTRIES]: pointers, in the order of step.cuh."""
        key = past.caches[0][0].data_ptr()
        if key not in self.tables:
            rows = []
            for layer, ((keys, values), window) in enumerate(zip(past.caches, past.windows, strict=True)):
                linears = self.linears(layer)
                pointers = [linear.data for linear in linears] + [linear.bias for linear in linears]
                pointers += [self.spans[layer].norm, self.spans[layer + 1].after_norm, keys, values]
                pointers += self.norms[layer] or (None, None)
                row = [0 if tensor is None else tensor.data_ptr() for tensor in pointers] + [window or 0]
                rows.append(row + [0] * (ENTRIES - len(row)))
            self.tables = {key: torch.tensor(rows, dtype=torch.int64).to(self.device)}
        return self.tables[key]

    def defines(self, T: int, keys: torch.Tensor) -> dict[str, int]:
        """What both kernels are compiled with for T tokens."""
        s = self.shape
        qkv, _, _, down = self.linears(0)
        return {
            "BATCH": T, "LAYERS": len(self.spans) - 1, "HIDDEN": qkv.K, "FFN": down.K, "HEADS": s.heads,
            "KV_HEADS": s.kv_heads, "D": s.head_dim, "GROUP": qkv.group, "BLOCK": keys.shape[2],
            "FP8": int(keys.element_size() == 1), "NORMS": int(any(self.norms)), "LEAST": max(16 * s.kv_heads, 64),
        }  # fmt: skip

    def unit_bytes(self) -> int:
        """See tiles.py."""
        group = self.linears(0)[0].group
        return 512 * (2 if group == 128 else 1) + 64 * (2 if group == 32 else 1)

    def units(self) -> list[int]:
        """Of a tile of each product."""
        linears = self.linears(0)
        return [linear.K // max(linears[0].group, COLUMNS) for linear in linears]

    def tiles(self) -> list[int]:
        """Of each product."""
        return [up(linear.N, ROWS) for linear in self.linears(0)]

    def multiprocessors(self) -> int:
        """Of the GPU."""
        return torch.cuda.get_device_properties(self.device).multi_processor_count

    def room(self) -> int:
        """Bytes of shared memory of a thread block."""
        properties = torch.cuda.get_device_properties(self.device)
        return int(properties.shared_memory_per_block_optin)  # type: ignore[attr-defined]


def up(number: int, by: int) -> int:
    """A quotient, rounded up."""
    return -(-number // by)


@cache
def step_kernel(name: str, arch: str, defines: tuple[tuple[str, int], ...]) -> CudaKernel:
    """The kernel `name` of the file of that name, behind what those have in common."""
    folder = files("halfbyte.kernels.cuda")
    source = "".join((folder / part).read_text() for part in ("ptx.cuh", "step.cuh", f"{name}.cu"))
    return CudaKernel(compiled(source, dict(defines), arch), name, dict(defines)["SHARED"])
