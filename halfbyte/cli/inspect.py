"""`halfbyte inspect`: what a model is, and whether its files are whole."""

from __future__ import annotations

from typing import Annotated

import typer


def inspect_model(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model to look at.", show_default=False)],
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read every tensor and check its shape and type, and that all is finite."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON on stdout.")] = False,
) -> None:
    """Show a model's format, group size, bytes per part, bits per weight and prompt template.

    halfbyte inspect TheBloke/airoboros-l2-7B-gpt4-m2.0-AWQ --verify
    """
