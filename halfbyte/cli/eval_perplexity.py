"""`halfbyte eval perplexity`: how well a model predicts a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from halfbyte.cli.choices import Compute

if TYPE_CHECKING:
    import torch

    from halfbyte.evaluate.perplexity import Perplexity
    from halfbyte.models.network import Network


def perplexity(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model to measure.", show_default=False)],
    text: Annotated[Path, typer.Option(metavar="FILE", help="A UTF-8 text file.", show_default=False)],
    context: Annotated[int, typer.Option(min=2, metavar="TOKENS", help="Length of a window, in tokens.")] = 2048,
    windows: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Read only the first N windows.", show_default="all whole ones"),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Also compare with this model, usually the one before quantization: KL(reference || model) in nats "
            "and the share of positions where both find the same token most likely. Both are held in memory.",
            show_default=False,
        ),
    ] = None,
    compute: Annotated[
        Compute,
        typer.Option(
            help="float32 measures the weights alone; auto measures what generation runs, which also rounds "
            "activations to 8 bits in 4-bit layers."
        ),
    ] = Compute.FLOAT32,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Measure perplexity on a text, and the distance to a reference model.

    The text is taken as a whole, its lines ended by a newline alone, and tokenized once: BOS first if the tokenizer
    adds one, no other special token. It is cut into windows that do not overlap; a shorter rest is dropped. Each window
    predicts its tokens but the first. Figures compare only with others of the same text, context and number of windows.

    $ halfbyte eval perplexity out/my-awq --text wiki.test.txt --reference org/my-model
    """
    from halfbyte.checkpoint.open import open_source
    from halfbyte.checkpoint.tokenizer import Tokenizer
    from halfbyte.evaluate.perplexity import check_vocabularies, cut_windows, read_text, tokenize

    content = read_text(text)
    tokens = cut_windows(tokenize(Tokenizer.from_source(open_source(model)), content), context, windows)
    network = load(model, compute)
    other = None if reference is None else load(reference, compute)
    if other is not None:
        check_vocabularies(network, other)
    result = measure_with_progress(network, tokens, other)
    report(summary(result, tokens, text, compute), as_json)


def load(model: str, compute: Compute) -> Network:
    """Open a model and make its network."""
    from halfbyte.checkpoint.checkpoint import Checkpoint
    from halfbyte.checkpoint.open import open_source
    from halfbyte.models.loader import exact_network, load_network

    checkpoint = Checkpoint(open_source(model))
    return exact_network(checkpoint) if compute.value == "float32" else load_network(checkpoint, compute.value)


def measure_with_progress(network: Network, tokens: torch.Tensor, reference: Network | None) -> Perplexity:
    """Measure, window by window, under a progress bar."""
    from halfbyte.cli.console import progress_bar
    from halfbyte.evaluate.perplexity import measure

    with progress_bar() as bar:
        task = bar.add_task("windows", total=len(tokens))
        return measure(network, tokens, reference, lambda done: bar.update(task, completed=done))


def summary(result: Perplexity, tokens: torch.Tensor, text: Path, compute: Compute) -> dict[str, Any]:
    """What --json prints."""
    return {
        "perplexity": result.perplexity,
        "tokens": result.tokens,
        "kl_divergence": result.kl_divergence,
        "top1_agreement": result.top1_agreement,
        "reference_perplexity": result.reference_perplexity,
        "context": tokens.shape[1],
        "windows": tokens.shape[0],
        "text": str(text),
        "compute": compute.value,
    }


def report(figures: dict[str, Any], as_json: bool) -> None:
    """Print the figures."""
    from halfbyte.cli.console import print_json

    if as_json:
        print_json(figures)
        return
    typer.echo(f"perplexity            {figures['perplexity']:.4f}")
    if figures["kl_divergence"] is not None:
        typer.echo(f"reference perplexity  {figures['reference_perplexity']:.4f}")
        typer.echo(f"KL(reference||model)  {figures['kl_divergence']:.5f} nats")
        typer.echo(f"top-1 agreement       {100 * figures['top1_agreement']:.2f} %")
    windows = f"{figures['windows']} windows of {figures['context']}"
    typer.echo(f"over {figures['tokens']} predictions in {windows} tokens of {figures['text']}, {figures['compute']}")
