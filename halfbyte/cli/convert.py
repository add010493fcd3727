"""`halfbyte convert`: from any format that can be read to any that can be written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from halfbyte.cli.sizes import parse_size, show_size

if TYPE_CHECKING:
    from types import TracebackType

    from rich.table import Table

    from halfbyte.convert import ConvertOptions, ConvertReport


def convert(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The model to convert.", show_default=False)],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder to write; for GGUF the file.", show_default=False)
    ],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="SPEC",
            help="gguf:TYPE with TYPE one of F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q5_1, Q5_0, Q4_K_M, Q4_K_S, "
            "Q4_1, Q4_0, Q3_K_L, Q3_K_M, Q3_K_S, Q2_K; awq:4bit-128g; gptq:4bit-64g, with -v2 for the container's "
            "second version; compressed-tensors:4bit-64g; fp16; bf16.",
            show_default=False,
        ),
    ],
    imatrix: Annotated[
        str | None,
        typer.Option(
            metavar="builtin|FILE",
            help="GGUF: weigh errors by how much each input channel matters, measured on --calib (builtin) or read "
            "from a file of llama-imatrix.",
            show_default="all channels alike",
        ),
    ] = None,
    calib: Annotated[
        str, typer.Option(metavar="builtin|wikitext|FILE", help="Text for awq and for --imatrix builtin.")
    ] = "builtin",
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="Pieces of that text to read.")] = 64,
    seq_len: Annotated[int, typer.Option(min=1, metavar="TOKENS", help="Length of each piece.")] = 512,
    seed: Annotated[int, typer.Option(metavar="N", help="Picks the pieces.")] = 0,
    text: Annotated[
        Path | None,
        typer.Option(
            "--eval",
            metavar="TEXT",
            help="Afterwards measure perplexity on this text, and KL to the source; both are held in memory.",
            show_default=False,
        ),
    ] = None,
    context: Annotated[int, typer.Option(min=2, metavar="TOKENS", help="With --eval: length of a window.")] = 2048,
    windows: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="With --eval: only the first N windows.", show_default="all"),
    ] = None,
    max_shard_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Most bytes of one safetensors file: 5GB (10⁹), 500MB, 2GiB (2³⁰).")
    ] = "5GB",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is already there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON on stdout.")] = False,
) -> None:
    """Convert a model to another format, and tell what that lost.

    SOURCE may be in any format that can be read, quantized ones too: their weights are taken for what they mean. The
    loss is measured on what was written, read back: the relative error of the weights of each kind of layer, and with
    --eval perplexity and KL. OUT appears only when it is complete.

    $ halfbyte convert org/my-model my-model-Q4_K_M.gguf --format gguf:Q4_K_M --imatrix builtin
    $ halfbyte convert my-model-AWQ my-model-fp16 --format fp16
    """
    from halfbyte.cli.console import print_json
    from halfbyte.convert import ConvertOptions

    options = ConvertOptions(
        imatrix=imatrix,
        calib=calib,
        samples=samples,
        seq_len=seq_len,
        seed=seed,
        max_shard_size=parse_size(max_shard_size),
        overwrite=overwrite,
    )
    report = convert_with_progress(source, out, form, options)
    if text is not None:
        evaluate(report, source, text, context, windows)
    if as_json:
        print_json(report.as_dict())
    else:
        show(report)


class Bar:
    """A conversion's progress, on stderr."""

    def __init__(self) -> None:
        from halfbyte.cli.console import progress_bar

        self.bar = progress_bar()
        self.task = self.bar.add_task("converting", total=None)

    def __enter__(self) -> Bar:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def start(self, what: str, total: int) -> None:
        """Begin a stretch."""
        self.bar.reset(self.task, description=what, total=total)

    def step(self, done: int) -> None:
        """Move the bar."""
        self.bar.update(self.task, completed=done)


def convert_with_progress(source: str, out: Path, form: str, options: ConvertOptions) -> ConvertReport:
    """Convert under a progress bar."""
    from halfbyte.convert import convert

    with Bar() as bar:
        return convert(source, out, form, options, progress=bar)


def evaluate(report: ConvertReport, source: str, text: Path, context: int, windows: int | None) -> None:
    """Measure what was written beside its source, as `halfbyte eval perplexity --reference` does."""
    from halfbyte.checkpoint.open import open_source
    from halfbyte.checkpoint.tokenizer import Tokenizer
    from halfbyte.cli.choices import Compute
    from halfbyte.cli.eval_perplexity import load, measure_with_progress
    from halfbyte.evaluate.perplexity import cut_windows, read_text, tokenize

    ids = tokenize(Tokenizer.from_source(open_source(source)), read_text(text))
    tokens = cut_windows(ids, context, windows)
    result = measure_with_progress(load(report.out, Compute.FLOAT32), tokens, load(source, Compute.FLOAT32))
    report.perplexity = result.perplexity
    report.reference_perplexity = result.reference_perplexity
    report.kl_divergence = result.kl_divergence
    report.top1_agreement = result.top1_agreement


def show(report: ConvertReport) -> None:
    """Print what was done."""
    from rich.console import Console

    if report.losses:  # nothing is lost by repacking
        Console().print(loss_table(report))
    for note in report.notes:
        typer.echo(note)
    if report.perplexity is not None:
        typer.echo(
            f"perplexity {report.perplexity:.4f}, source {report.reference_perplexity:.4f}, KL(source||written) "
            f"{report.kl_divergence:.5f} nats"
        )
    typer.echo(
        f"{report.out}: {report.format}, {show_size(report.out_bytes)}, {report.bits_per_weight:.2f} bits per weight, "
        f"in {report.seconds:.0f} s"
    )


def loss_table(report: ConvertReport) -> Table:
    """Relative errors by kind of layer."""
    from rich.table import Table

    weighted = any(loss.importance_error is not None for loss in report.losses)
    table = Table(title="relative error of what was written")
    for heading in ("tensors", "types", "error", *(["by importance"] if weighted else [])):
        table.add_column(heading, justify="right" if heading in {"error", "by importance"} else "left")
    for loss in report.losses:
        types = ", ".join(f"{count} {kind}" for kind, count in loss.types.items())
        by_importance = "-" if loss.importance_error is None else f"{100 * loss.importance_error:.3f} %"
        table.add_row(loss.kind, types, f"{100 * loss.relative_error:.3f} %", *([by_importance] if weighted else []))
    return table
