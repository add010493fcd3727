"""Finds what to choose on a GPU (kernels/gpu/choices.py) by timing a model's products, and times a CPU's."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from halfbyte.evaluate.kernel_timing import Timing, copies_of, seconds_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from halfbyte.evaluate.kernel_timing import Product
    from halfbyte.kernels.gpu.choices import Choices
    from halfbyte.kernels.gpu.linear import GpuLinear
    from halfbyte.kernels.triton.linear import Cut

    Report = Callable[[str], None]  # told what is being timed
    Ways = dict[str, list[Callable[[], object]]]  # calls by a name, one for each weight

FEW_TOKENS = (1, 2, 4, 6, 8, 12, 16)
MORE_TOKENS = (24, 32, 48, 64, 96, 128)
SEVERAL = 8  # tokens that the cut of a product of several is chosen at


def time_cpu(products: Sequence[Product], tokens: Sequence[int], report: Report) -> list[Timing]:
    """The CPU's kernels beside torch's float32 products; there is nothing to choose."""
    from halfbyte.kernels.cpu.pick import cpu_kernels  # noqa: PLC0415  it may have to compile

    device, found = torch.device("cpu"), []
    for product in products:  # before there are threads of ours, with which torch's would fight for the cores
        report(f"{product.name} {product.outputs} x {product.inputs}: float32")
        plain = [torch.randn(product.outputs, product.inputs) for _ in range(copies_of(product, device))]
        for count in tokens:
            x = torch.randn(count, product.inputs)
            seconds = seconds_of([partial(F.linear, x, weight) for weight in plain], device)
            found.append(Timing(product, count, "float32", seconds, 4))
    kernels = cpu_kernels()
    for product in products:
        report(f"{product.name} {product.outputs} x {product.inputs}: ours")
        weights = [product.weight(device) for _ in range(copies_of(product, device))]
        ours = [kernels.linear(w) if product.group else kernels.head(w.weight) for w in weights]  # type: ignore[arg-type]
        for count in tokens:
            x = torch.randn(count, product.inputs)
            with kernels.threads(count):
                seconds = seconds_of([partial(call, x) for call in ours], device)
            found.append(Timing(product, count, "ours", seconds, None if product.group else 1))  # the head in 8 bits
    return found


def time_gpu(
    products: Sequence[Product], tokens: Sequence[int], device: torch.device, report: Report
) -> tuple[list[Timing], Choices]:
    """Every way that a product can go on a device, and what follows from it. `tokens` are timed beside FEW_TOKENS."""
    from halfbyte.kernels.gpu.choices import default_choices  # noqa: PLC0415  triton comes with CUDA

    base = default_choices(device)
    made = [(product, _linears(product, device)) for product in products]
    found: list[Timing] = []

    def measure(product: Product, count: int, ways: Ways) -> None:
        for way, calls in ways.items():
            found.append(Timing(product, count, way, seconds_of(calls, device)))

    for product, linears in made:
        if product.group:
            report(f"{product.name} {product.outputs} x {product.inputs}: cuts")
            for count in (1, SEVERAL):
                measure(product, count, _cut_ways(linears, count, _cuts()))
    chosen = choose(found, base)
    for product, linears in made:
        report(f"{product.name} {product.outputs} x {product.inputs}: ways")
        for count in sorted({*FEW_TOKENS, *MORE_TOKENS, *tokens}):
            ways = _ways(linears, count)
            if count <= MORE_TOKENS[-1] and not (product.group and count in (1, SEVERAL)):
                ways |= _cut_ways(linears, count, {_name(chosen.several): chosen.several})
            measure(product, count, ways)
    return found, choose(found, base)


def choose(timings: Sequence[Timing], base: Choices) -> Choices:
    """What the times of a block's products say; `base` where they say nothing."""
    totals: dict[tuple[int, str], float] = {}
    for timing in timings:
        if timing.product.group:
            key = timing.tokens, timing.way
            totals[key] = totals.get(key, 0.0) + timing.seconds
    several = _best_cut(totals, SEVERAL) or base.several
    wide_from = _first(totals, "wide", "stream")
    stream_to, triton_to = (_last(totals, way, "matrix") for way in ("stream", _name(several)))
    return replace(
        base,
        alone=_best_cut(totals, 1) or base.alone,
        several=several,
        wide_from=base.wide_from if wide_from is None else wide_from,
        stream_to=base.stream_to if stream_to is None else stream_to,
        triton_to=base.triton_to if triton_to is None else triton_to,
    )


def _best_cut(totals: dict[tuple[int, str], float], count: int) -> Cut | None:
    cuts = _cuts()
    there = {way: seconds for (tokens, way), seconds in totals.items() if tokens == count and way in cuts}
    return cuts[min(there, key=there.__getitem__)] if there else None


def _first(totals: dict[tuple[int, str], float], way: str, other: str) -> int | None:
    """The first number of tokens from which on a way is never slower than the other, among those where both are."""
    counts = sorted(tokens for tokens, name in totals if name == way and (tokens, other) in totals)
    best = None
    for count in reversed(counts):
        if totals[count, way] > totals[count, other]:
            break
        best = count
    return best if best is not None or not counts else counts[-1] + 1


def _last(totals: dict[tuple[int, str], float], way: str, other: str) -> int | None:
    """The last number of tokens up to which a way is never slower than the other."""
    counts = sorted(tokens for tokens, name in totals if name == way and (tokens, other) in totals)
    best = 0
    for count in counts:
        if totals[count, way] > totals[count, other]:
            break
        best = count
    return best if counts else None


def _cuts() -> dict[str, Cut]:
    """Every way to cut a product in Triton that is tried, by a name."""
    from halfbyte.kernels.triton.linear import Cut  # noqa: PLC0415  triton comes with CUDA

    tried = [
        Cut(rows, tiles, programs, warps)
        for rows in (1, 16)
        for tiles, warps in ((2, 1), (2, 2), (4, 2), (8, 4))
        for programs in (256, 512, 1024)
    ]
    return {_name(cut): cut for cut in tried}


def _name(cut: Cut) -> str:
    return f"triton {cut.rows}x{cut.tiles} w{cut.warps} p{cut.programs}"


def _linears(product: Product, device: torch.device) -> list[GpuLinear]:
    from halfbyte.kernels.gpu.linear import GpuLinear  # noqa: PLC0415  triton comes with CUDA

    return [GpuLinear(product.weight(device), device) for _ in range(copies_of(product, device))]


def _ways(linears: list[GpuLinear], count: int) -> Ways:
    """All ways but Triton's product; wide_linear.cu's activations are random, so their order does not matter."""
    from halfbyte.kernels.gpu.linear import is_wide  # noqa: PLC0415  triton comes with CUDA
    from halfbyte.kernels.gpu.wide import takes, wide_linear  # noqa: PLC0415

    first, (x, out) = linears[0], _given(linears[0], count)
    ways: Ways = {"matrix": [partial(linear.many, x) for linear in linears]}
    if first.mode.portable:
        return ways
    if first.streams and count <= MORE_TOKENS[-1]:
        ways["stream"] = [partial(linear.sliced, x, out, "half") for linear in linears]
    if is_wide(x.device) and takes(first):
        ways["wide"] = [partial(wide_linear, linear, x, out, "half") for linear in linears]
    return ways


def _cut_ways(linears: list[GpuLinear], count: int, cuts: dict[str, Cut]) -> Ways:
    """Triton's product, cut in these ways."""
    from halfbyte.kernels.triton.linear import finish, multiply_floats, multiply_tiles  # noqa: PLC0415

    x, out = _given(linears[0], count)

    def product(linear: GpuLinear, cut: Cut) -> None:
        tiles = linear.group > 0
        parts = multiply_tiles(linear.data, linear.group, x, cut) if tiles else multiply_floats(linear.data, x, cut)
        finish(parts, linear.bias, out, "half")

    return {name: [partial(product, linear, cut) for linear in linears] for name, cut in cuts.items()}


def _given(linear: GpuLinear, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random activations, and where a product goes."""
    dtype, device = linear.mode.dtype, linear.data.device
    x = torch.randn(count, linear.K, device=device).to(dtype)
    return x, torch.empty(count, linear.N, device=device, dtype=dtype)
