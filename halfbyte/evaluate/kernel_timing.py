"""How long a model's products take with each way of computing them that a device has."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import torch

from halfbyte.checkpoint.int4 import Int4Weight
from halfbyte.kernels.interface import LinearWeight

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from halfbyte.checkpoint.checkpoint import Checkpoint

FRESH = {"cuda": 256 * 2**20, "cpu": 128 * 2**20}  # bytes of weights that are gone through, so that none is in a cache
MOST_COPIES = 64
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Product:
    """One of a model's linears; group: 0 if its weights are floats."""

    name: str
    outputs: int
    inputs: int
    group: int

    @property
    def bytes(self) -> int:
        """Of its weight: in groups 4 bits, and 4 bytes for a group's scale and zero point; else float16."""
        size = self.outputs * self.inputs
        return size // 2 + 4 * size // self.group if self.group else 2 * size

    def weight(self, device: torch.device) -> LinearWeight:
        """A random one."""
        n, k = self.outputs, self.inputs
        if not self.group:
            return LinearWeight(torch.randn(n, k, device=device) * k**-0.5)
        q, z = (torch.randint(0, 16, (n, m), dtype=torch.uint8, device=device) for m in (k, k // self.group))
        return LinearWeight(Int4Weight(q, ((torch.rand(n, k // self.group, device=device) + 0.5) / k**0.5).half(), z))


@dataclass(frozen=True, slots=True)
class Timing:
    """A product of so many tokens, one way."""

    product: Product
    tokens: int
    way: str
    seconds: float
    element: float | None = None  # bytes of a number of the weight, where they are not the product's own

    @property
    def bytes_s(self) -> float:
        """At which its weight was read, if it was read once."""
        p = self.product
        return (p.bytes if self.element is None else self.element * p.outputs * p.inputs) / self.seconds

    @property
    def flop_s(self) -> float:
        """Of products and sums."""
        return 2 * self.product.outputs * self.product.inputs * self.tokens / self.seconds


def products_of(checkpoint: Checkpoint) -> list[Product]:
    """The four products of a block, stacked as they are computed, and the output embedding."""
    c = checkpoint.config
    group = checkpoint.container.group_size if checkpoint.has_int4 and checkpoint.container is not None else 0
    q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    shapes = {
        "qkv": (q + 2 * kv, c.hidden_size), "o": (c.hidden_size, q),
        "gate_up": (2 * c.intermediate_size, c.hidden_size), "down": (c.hidden_size, c.intermediate_size),
    }  # fmt: skip
    found = [Product(name, n, k, k if group < 0 else group) for name, (n, k) in shapes.items()]
    return [*found, Product("head", c.vocab_size, c.hidden_size, 0)]


def copies_of(product: Product, device: torch.device) -> int:
    """How many weights of a product it takes for none to be found in a cache."""
    return min(max(1, FRESH[device.type] // product.bytes), MOST_COPIES)


def seconds_of(calls: Sequence[Callable[[], object]], device: torch.device) -> float:
    """For one of some calls that take equally long: the median of ROUNDS, on a GPU without the host's part of it."""
    for call in calls[:2]:  # what is compiled or made at first use
        call()
    if device.type == "cuda":
        return _recorded(calls) / len(calls)
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for call in calls:
            call()
        found.append(time.perf_counter() - start)
    return median(found) / len(calls)


def _recorded(calls: Sequence[Callable[[], object]]) -> float:
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    found: list[float] = []
    for _ in range(ROUNDS + 1):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end) / 1e3)
    return median(found[1:])


def ceilings(device: torch.device) -> tuple[float, float]:
    """Bytes a second that a plain sum reads, and operations a second of a large product: float16, on a CPU float32."""
    on_gpu = device.type == "cuda"
    count, size = (2**29, 8192) if on_gpu else (2**26, 1024)
    dtype = torch.float16 if on_gpu else torch.float32
    big = torch.ones(count, dtype=dtype, device=device)
    read = big.nbytes / seconds_of([big.sum], device)
    square = torch.randn(size, size, device=device, dtype=dtype)
    return read, 2 * size**3 / seconds_of([lambda: square @ square], device)
