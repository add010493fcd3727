"""`halfbyte compare`: which group size and method is worth its bytes?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from halfbyte.evaluate.compare import Cell, Comparison


def compare(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The model to quantize.", show_default=False)],
    text: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="A UTF-8 text to measure on, best not the calibration text.", show_default=False
        ),
    ],
    group_sizes: Annotated[
        str, typer.Option(metavar="LIST", help="Group sizes, with commas; one that does not divide is left out.")
    ] = "128,64,32",
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Of rtn (round to nearest), awq, gptq, fast, default, best; with commas.",
            show_default="rtn,awq,gptq,default,best",
        ),
    ] = None,
    calib: Annotated[
        str, typer.Option(metavar="builtin|wikitext|FILE", help="Calibration text, see quantize.")
    ] = "builtin",
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="Pieces of that text to read.")] = 64,
    seq_len: Annotated[int, typer.Option(min=1, metavar="TOKENS", help="Length of each piece.")] = 512,
    seed: Annotated[int, typer.Option(metavar="N", help="Picks the pieces.")] = 0,
    context: Annotated[int, typer.Option(min=2, metavar="TOKENS", help="Length of a window of --text.")] = 1024,
    windows: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Read only the first N windows.", show_default="all whole ones"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where results are kept.", show_default="compare-NAME"),
    ] = None,
    picture: Annotated[bool, typer.Option("--plot/--no-plot", help="Draw compare.png (needs halfbyte[plot]).")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON on stdout.")] = False,
) -> None:
    """Quantize a model with each method and group size, and measure each against the unquantized model.

    Tells perplexity, KL(reference || quantized) in nats, the share of positions where both find the same token most
    likely, and the size; as a table, as comparison.json and as compare.png in the folder, with the whole protocol.
    A cell that is finished is kept there: the same command goes on where it was stopped, and more methods or group
    sizes may be asked for later. The reference runs once. Quantized weights are not kept.

    $ halfbyte compare org/my-model --text held-out.txt --group-sizes 128,64 --windows 32
    """
    from rich.console import Console

    from halfbyte.cli.console import print_json
    from halfbyte.evaluate.compare import DEFAULT_METHODS, CompareOptions
    from halfbyte.evaluate.compare import compare as run
    from halfbyte.evaluate.compare_plot import check_plot, plot, protocol_text
    from halfbyte.evaluate.perplexity import read_text

    if picture:
        check_plot()
    options = CompareOptions(
        text=read_text(text),
        text_name=str(text),
        group_sizes=read_sizes(group_sizes),
        methods=DEFAULT_METHODS if methods is None else tuple(method.strip() for method in methods.split(",")),
        context=context,
        windows=windows,
        calib=calib,
        samples=samples,
        seq_len=seq_len,
        seed=seed,
    )
    folder = out or Path(f"compare-{re.split(r'[/:]', source.rstrip('/'))[-1]}")
    with Display() as display:
        comparison = run(source, folder, options, display)
    if picture and any(cell.skipped is None for cell in comparison.cells):
        plot(comparison, folder / "compare.png")
    if as_json:
        print_json(comparison.as_dict())
        return
    Console().print(table_of(comparison))
    typer.echo(protocol_text(comparison))
    typer.echo(f"kept in {folder}")


def read_sizes(text: str) -> tuple[int, ...]:
    """Group sizes with commas. Wrong usage raises typer.BadParameter."""
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"--group-sizes {text!r}: write them as 128,64,32") from None


def table_of(comparison: Comparison) -> Table:
    """A row a cell."""
    from rich.table import Table

    from halfbyte.cli.sizes import show_size

    table = Table()
    for heading in ("group size", "method", "perplexity", "KL, nats", "top-1", "size", "quantized in"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for c in comparison.cells:
        if c.perplexity is None or c.kl_divergence is None or c.top1_agreement is None:
            table.add_row(str(c.group_size), c.method, "left out")
            continue
        table.add_row(
            str(c.group_size), c.method, f"{c.perplexity:.3f}", f"{c.kl_divergence:.4f}",
            f"{100 * c.top1_agreement:.2f} %", show_size(c.bytes or 0), f"{c.seconds:.0f} s",
        )  # fmt: skip
    table.add_section()
    table.add_row("-", "reference", f"{comparison.reference_perplexity:.3f}", "0", "100 %",
                  show_size(comparison.reference_bytes), "")  # fmt: skip
    return table


class Display:
    """A comparison's progress, on stderr."""

    def __init__(self) -> None:
        from halfbyte.cli.console import progress_bar

        self.bar = progress_bar()
        self.task = self.bar.add_task("comparing", total=None)

    def __enter__(self) -> Display:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def start(self, what: str, total: int) -> None:
        """Begin a stretch."""
        self.bar.reset(self.task, description=what, total=total)

    def step(self, done: int) -> None:
        """Move the bar."""
        self.bar.update(self.task, completed=done)

    def cell(self, cell: Cell, kept: bool) -> None:
        """Tell a finished cell."""
        from halfbyte.cli.console import notes

        if cell.perplexity is not None:
            how = "kept from an earlier run" if kept else f"quantized in {cell.seconds:.0f} s"
            notes().print(f"{cell.method} g{cell.group_size}: perplexity {cell.perplexity:.3f} ({how})")
