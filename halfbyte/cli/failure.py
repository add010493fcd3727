"""How a command ends when something goes wrong: one line on stderr and an exit code, never a traceback."""

from __future__ import annotations

import os
import re
from typing import Any

import typer
from typer.core import TyperGroup

from halfbyte.errors import HalfbyteError

FAILED, INTERRUPTED = 1, 130


class Commands(TyperGroup):
    """Commands whose expected failures exit with 1 (wrong usage: 2, by typer; Ctrl-C: 130).

    HALFBYTE_DEBUG=1 shows the traceback instead.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # the reader of our output has left, as in `halfbyte inspect … | head -1`
            raise
        except (HalfbyteError, OSError) as e:
            if os.environ.get("HALFBYTE_DEBUG") == "1":
                raise
            typer.echo(f"error: {describe(e)}", err=True)
            raise typer.Exit(FAILED) from e


def describe(error: HalfbyteError | OSError) -> str:
    """One line that says what went wrong."""
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    else:
        text = str(error) or type(error).__name__
    return re.sub(r"\s*\n\s*", "; ", re.sub(r":\s*\n\s*", ": ", text.strip()))
