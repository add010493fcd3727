"""The option --chat-template: a template that has a name, or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ChatTemplate = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="Chat template to use instead of the model's own: airoboros-m2.0 (also -1.0 to -3.x), or a Jinja file.",
        show_default="the model's own",
    ),
]


def read_chat_template(value: str | None) -> str | None:
    """A template's name as it is, or the Jinja in a file. Raises PromptError if there is neither."""
    from halfbyte.errors import PromptError
    from halfbyte.prompts.templates import TEMPLATES

    if value is None or value in TEMPLATES:
        return value
    path = Path(value)
    if not path.is_file():
        raise PromptError(f"--chat-template {value}: no file, and no name; names are {', '.join(TEMPLATES)}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PromptError(f"--chat-template {value}: not UTF-8 text ({error})") from error


def stops_of(value: str | None) -> tuple[str, ...]:
    """The stop strings that belong to a named template."""
    from halfbyte.prompts.templates import stops_of

    return stops_of(value)
