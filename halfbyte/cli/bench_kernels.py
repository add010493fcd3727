"""`halfbyte bench kernels`: what a model's products take on this machine, and which way is best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from halfbyte.cli import sampling_options as options
from halfbyte.cli.choices import Device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from halfbyte.evaluate.kernel_timing import Timing


def kernels(
    model: options.Model,
    tokens: Annotated[
        list[int] | None,
        typer.Option(
            "--tokens",
            min=1,
            metavar="N",
            help="Tokens of a pass; may be given several times.",
            show_default="1, 8, 64, on a GPU 1, 16, 256, 2048",
        ),
    ] = None,
    device: Annotated[Device, typer.Option(help="auto: a GPU if there is one.")] = Device.AUTO,
    store: Annotated[bool, typer.Option(help="Keep what was found, for every model that is run on this GPU.")] = True,
    every: Annotated[bool, typer.Option("--all", help="Print every way to cut a product, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON on stdout.")] = False,
) -> None:
    """Time the products of a model's shapes, with random weights, every way that this device has.

    On a GPU the best ones are kept in the cache folder, and taken from then on; without that, they are those that were
    best on an H200. A CPU's kernels are timed beside torch's float32, and there is nothing to choose.

    $ halfbyte bench kernels out/my-awq
    """
    import torch

    from halfbyte.checkpoint.checkpoint import Checkpoint
    from halfbyte.checkpoint.open import open_source
    from halfbyte.cli.console import notes, print_json
    from halfbyte.evaluate.kernel_choice import time_cpu, time_gpu
    from halfbyte.evaluate.kernel_timing import ceilings, products_of
    from halfbyte.models.loader import pick_device

    place = pick_device(device.value, "auto")
    products = products_of(Checkpoint(open_source(model)))
    on_gpu = place.type == "cuda"
    counts = tokens or ([1, 16, 256, 2048] if on_gpu else [1, 8, 64])

    def report(what: str) -> None:
        notes().print(what, style="dim")

    chosen: dict[str, Any] | None = None
    with torch.inference_mode():
        limits = ceilings(place)
        if on_gpu:
            from halfbyte.kernels.gpu.choices import as_json as plain
            from halfbyte.kernels.gpu.choices import choices_path, write_choices
            from halfbyte.kernels.gpu.portable import check_device

            check_device(place)
            timings, found = time_gpu(products, counts, place, report)
            chosen = plain(found)
            if store:
                write_choices(choices_path(place), found, {"model": model, "timings": as_rows(timings, limits)})
                report(f"kept in {choices_path(place)}")
        else:
            timings = time_cpu(products, counts, report)
    name = torch.cuda.get_device_name(place) if on_gpu else "cpu"
    shown = timings if every else best_cuts(timings, counts)
    if as_json:
        print_json({
            "device": name, "read_bytes_s": limits[0], "flop_s": limits[1], "choices": chosen,
            "timings": as_rows(shown, limits),
        })  # fmt: skip
    else:
        print_table(name, as_rows(shown, limits), limits, chosen)


def best_cuts(timings: Sequence[Timing], counts: Sequence[int]) -> list[Timing]:
    """Those of the numbers of tokens that were asked for, of Triton's cuts the best one each."""
    cuts: dict[tuple[str, int], Timing] = {}
    found = []
    for timing in timings:
        if timing.tokens not in counts:
            continue
        key = timing.product.name, timing.tokens
        if not timing.way.startswith("triton"):
            found.append(timing)
        elif key not in cuts or timing.seconds < cuts[key].seconds:
            cuts[key] = timing
    return [*found, *cuts.values()]


def as_rows(timings: Sequence[Timing], limits: tuple[float, float]) -> list[dict[str, Any]]:
    """By product and tokens, fastest first; of_ceiling: the larger share of what the machine can read, or compute."""
    order = {name: i for i, name in enumerate(dict.fromkeys(t.product.name for t in timings))}
    ordered = sorted(timings, key=lambda t: (order[t.product.name], t.tokens, t.seconds))
    return [
        {
            "product": t.product.name, "outputs": t.product.outputs, "inputs": t.product.inputs,
            "group": t.product.group, "tokens": t.tokens, "way": t.way, "us": round(t.seconds * 1e6, 2),
            "gb_s": round(t.bytes_s / 1e9, 1), "tflop_s": round(t.flop_s / 1e12, 3),
            "of_ceiling": round(max(t.bytes_s / limits[0], t.flop_s / limits[1]), 3),
        }
        for t in ordered
    ]  # fmt: skip


def print_table(
    device: str, rows: list[dict[str, Any]], limits: tuple[float, float], chosen: dict[str, Any] | None
) -> None:
    """To stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table("product", "shape", "tokens", "way", "us", "GB/s", "TFLOP/s", "of ceiling", box=None)
    for row in rows:
        shape = f"{row['outputs']} x {row['inputs']}" + (f" g{row['group']}" if row["group"] else "")
        figures = (f"{row['us']:,.1f}", f"{row['gb_s']:,.1f}", f"{row['tflop_s']:,.2f}", f"{row['of_ceiling']:.0%}")
        table.add_row(row["product"], shape, str(row["tokens"]), row["way"], *figures)
    console = Console()
    console.print(f"{device}: reads {limits[0] / 1e9:,.1f} GB/s, multiplies at {limits[1] / 1e12:,.2f} TFLOP/s")
    console.print(table)
    if chosen is not None:
        console.print("chosen:", ", ".join(f"{name} {value}" for name, value in chosen.items()))
