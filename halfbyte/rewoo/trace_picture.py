"""A trace as a picture, in SVG: a bar a step over time, and a line from each to those that used its evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from halfbyte.rewoo.trace_table import shortened

if TYPE_CHECKING:
    from halfbyte.rewoo.trace import StepTrace, Trace

WIDTH, ROW, BAR, LEFT, TOP = 960, 34, 20, 230, 40  # pixels; LEFT: room for the names of the steps
COLOURS = {
    "waiting": "#c8c8c8",
    "running": "#e0b040",
    "done": "#4a90d9",
    "failed": "#d04a4a",
    "skipped": "#b48ac8",
    "cancelled": "#b48ac8",
}
TICKS = 6


def trace_picture(trace: Trace) -> str:
    """The picture as SVG text."""
    rows = {step.id: row for row, step in enumerate(trace.steps)}
    whole = max([trace.seconds, *(step.end or 0.0 for step in trace.steps)]) or 1e-3
    height = TOP + ROW * len(trace.steps) + 30
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    )
    parts = [head, *_ticks(whole, height)]
    by_id = {step.id: step for step in trace.steps}
    for step in trace.steps:
        parts += [_edge(by_id[d], step, rows, whole) for d in step.depends_on if d in by_id]
    parts += [_bar(step, rows[step.id], whole) for step in trace.steps]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _x(seconds: float | None, whole: float) -> float:
    return LEFT + (WIDTH - LEFT - 60) * (seconds or 0.0) / whole


def _y(row: int) -> float:
    return TOP + ROW * row + ROW / 2


def _ticks(whole: float, height: int) -> list[str]:
    parts = []
    for n in range(TICKS):
        at = whole * n / (TICKS - 1)
        x = _x(at, whole)
        parts.append(f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{height - 24}" stroke="#e8e8e8"/>')
        parts.append(f'<text x="{x:.1f}" y="{TOP - 14}" text-anchor="middle" fill="#666">{at:.3g} s</text>')
    return parts


def _edge(source: StepTrace, user: StepTrace, rows: dict[int, int], whole: float) -> str:
    x1, y1, x2, y2 = _x(source.end, whole), _y(rows[source.id]), _x(user.start, whole), _y(rows[user.id])
    return (
        f'<path d="M{x1:.1f} {y1:.1f} C{x1 + 18:.1f} {y1:.1f} {x2 - 18:.1f} {y2:.1f} {x2:.1f} {y2:.1f}" '
        'fill="none" stroke="#999" stroke-width="1.2"/>'
    )


def _bar(step: StepTrace, row: int, whole: float) -> str:
    x, y = _x(step.start, whole), _y(row)
    width = max(_x(step.end, whole) - x, 2.0)
    said = step.error or step.evidence or ""
    return (
        f'<text x="8" y="{y + 4:.1f}">{escape(f"{step.label} {step.tool:.28}")}</text>'
        f'<rect x="{x:.1f}" y="{y - BAR / 2:.1f}" width="{width:.1f}" height="{BAR}" rx="3" '
        f'fill="{COLOURS[step.status]}"><title>{escape(shortened(printable(said)))}</title></rect>'
        f'<text x="{x + width + 4:.1f}" y="{y + 4:.1f}" fill="#444">{step.seconds:.3g} s</text>'
    )


def printable(text: str) -> str:
    """Without the characters that XML does not allow."""
    return "".join(c if c.isprintable() or c == " " else " " for c in text[:1000])
