"""A trace as a table for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from halfbyte.rewoo.trace import StepTrace, Trace

STYLES = {
    "waiting": "dim",
    "running": "yellow",
    "done": "green",
    "failed": "red",
    "skipped": "magenta",
    "cancelled": "magenta",
}
LONGEST = 120  # characters of evidence that are shown


def trace_table(trace: Trace) -> Table:
    """A row a step, in the order of the plan; times in seconds since the run began."""
    used = f"{trace.calls} calls, {trace.prompt_tokens} + {trace.completion_tokens} tokens"
    return steps_table(trace.steps, caption=f"{trace.seconds:.2f} s, {used}")


def steps_table(steps: list[StepTrace], caption: str | None = None) -> Table:
    """The table of some steps, also while they run."""
    table = Table(caption=caption, caption_justify="left", expand=False)
    for name in ("step", "tool", "status"):
        table.add_column(name, no_wrap=True)
    table.add_column("start", justify="right", no_wrap=True)
    table.add_column("took", justify="right", no_wrap=True)
    table.add_column("evidence", overflow="fold")
    for step in steps:
        table.add_row(*_row(step))
    return table


def _row(step: StepTrace) -> list[RenderableType]:
    status = step.status if step.origin == "call" else f"{step.status} ({step.origin})"
    if len(step.attempts) > 1:
        status += f", {len(step.attempts)} attempts"
    start = "" if step.start is None else f"{step.start:.2f}"
    took = "" if step.end is None else f"{step.seconds:.2f}"
    said = step.evidence if step.evidence is not None else step.error or ""
    return [Text(step.label), Text(step.tool), Text(status, STYLES[step.status]), start, took, Text(shortened(said))]


def shortened(text: str, longest: int = LONGEST) -> str:
    """A text on one line, cut off."""
    line = " ".join(text[: 4 * longest].split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
