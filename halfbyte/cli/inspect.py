"""`halfbyte inspect`: what a model is, and whether its files are whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from halfbyte.cli.sizes import show_size

if TYPE_CHECKING:
    from halfbyte.checkpoint.checkpoint import Checkpoint
    from halfbyte.checkpoint.summary import Summary


def inspect_model(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model to look at.", show_default=False)],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every tensor; check its shape and type, and that all is finite.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON on stdout.")] = False,
) -> None:
    """Show a model's format, group size, bytes per part, bits per weight and prompt template.

    Without --verify only headers and small files are read, so that it is quick for a model of any size. Sizes are
    decimal (1 GB is 10⁹ bytes) and count tensor data. For a model that is not quantized, the sizes that it would have
    as a 4-bit AWQ repository are shown, for each group size that divides all its layers.

    $ halfbyte inspect TheBloke/airoboros-l2-7B-gpt4-m2.0-AWQ --verify
    """
    from dataclasses import asdict

    from halfbyte.checkpoint.checkpoint import Checkpoint
    from halfbyte.checkpoint.open import open_source
    from halfbyte.checkpoint.summary import summarise
    from halfbyte.cli.console import print_json

    checkpoint = Checkpoint(open_source(model))
    summary = summarise(checkpoint)
    verified = verify_with_progress(checkpoint) if verify else None
    if as_json:
        print_json({**asdict(summary), "verified_tensors": verified})
        return
    typer.echo(describe(summary))
    if verified is not None:
        typer.echo(f"\nverified: {verified} tensors are whole, of the right shape and type, and finite")


def verify_with_progress(checkpoint: Checkpoint) -> int:
    """Read every tensor under a progress bar; the number of them."""
    from halfbyte.cli.console import progress_bar

    tensors = 0
    with progress_bar("bytes") as bar:
        task = bar.add_task("verifying", total=None)
        for tensor in checkpoint.verify():
            tensors += 1
            bar.update(task, completed=tensor.done, total=tensor.total)
    return tensors


def describe(s: Summary) -> str:
    """The summary as lines of text."""
    rows = [
        ("model", s.model),
        ("architecture", f"{s.architecture}, {s.layers} layers, context {s.context}, vocabulary {s.vocab_size}"),
        ("format", f"{s.quantization or 'not quantized'}, {s.container}, {s.files} file{'s' * (s.files != 1)}"),
        ("weights", f"{s.weights:,}"),
        ("size", f"{show_size(s.bytes)}, {s.bits_per_weight:.2f} bits per weight"),
        *((f"  {part}", part_line(s, part, size)) for part, size in s.parts.items() if size or part == "head"),
    ]
    if s.quant_method is None:
        sizes = ", ".join(f"{show_size(size)} at group size {g}" for g, size in s.awq_bytes.items())
        rows.append(("as 4-bit AWQ", sizes or "not possible: none of 128, 64, 32 divides every layer"))
    lines = [f"{name:<14}{value}" for name, value in rows]
    return "\n".join([*lines, "prompt template", indented(s.prompt_template or "none; give plain prompts with --raw")])


def part_line(s: Summary, part: str, size: int) -> str:
    """One part's size, and what is worth knowing of it."""
    if part == "head" and s.tie_word_embeddings and not size:
        return "tied to the embedding"
    note = f"  ({s.bits_per_linear_weight:.3f} bits per weight with mlp)" if part == "attention" else ""
    return f"{show_size(size):>10}{note}"


def indented(text: str) -> str:
    """Every line, set in by two spaces."""
    return "\n".join(f"  {line}" for line in text.split("\n"))
