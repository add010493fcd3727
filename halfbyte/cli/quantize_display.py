"""What a quantization shows while it runs and when it is done."""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING

from rich.table import Table

from halfbyte.cli.console import notes, progress_bar
from halfbyte.cli.sizes import show_size

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import TaskID

    from halfbyte.quantize import LayerReport, Plan, Report

PLAIN = "none"  # the formula of a layer whose inputs were best left unscaled


class Display:
    """A quantizer's progress, on stderr."""

    def __init__(self) -> None:
        self.bar = progress_bar()
        self.task = self.bar.add_task("quantizing blocks", total=None)
        self.learning: TaskID | None = None

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def plan(self, plan: Plan) -> None:
        """Tell what the run will take, then start the bar."""
        console = notes()
        for note in plan.notes:
            console.print(note)
        spilled = f" ({show_size(plan.spilled)} of activations, as they do not fit memory)" if plan.spilled else ""
        console.print(
            f"{plan.layers} blocks, at most {show_size(plan.memory)} of memory, {show_size(plan.disk)} on disk"
            f"{spilled}, about {show_seconds(plan.seconds)}"
        )
        self.bar.update(self.task, total=plan.layers)
        self.bar.start()

    def block(self, done: int, total: int) -> None:
        """Move the bar."""
        self.bar.update(self.task, completed=done, total=total)

    def tuning(self, done: int, total: int) -> None:
        """Show a bar of its own once the blocks are done."""
        if self.learning is None:
            self.learning = self.bar.add_task("tuning scales", total=total)
        self.bar.update(self.learning, completed=done)


def show_seconds(seconds: float) -> str:
    """A duration as people say it."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def report_table(report: Report, *, every_layer: bool) -> Table:
    """Errors before and after, of every linear or of the median of each kind."""
    table = Table(title="squared error of the output, relative to the squared output")
    for heading in ("layer" if every_layer else "layers (median)", "scaling", "rounded", "quantized", "less by"):
        table.add_column(heading, justify="left" if heading.startswith("layer") else "right")
    for name, members in (each if every_layer else by_kind)(report.layers).items():
        before, after = (median(getattr(m, e) for m in members) for e in ("error_before", "error_after"))
        less = f"{100 * (1 - after / before):.0f} %" if before else "-"
        table.add_row(name, scaling(members), f"{before:.2e}", f"{after:.2e}", less)
    return table


def each(layers: list[LayerReport]) -> dict[str, list[LayerReport]]:
    """Every linear for itself."""
    return {layer.name: [layer] for layer in layers}


def by_kind(layers: list[LayerReport]) -> dict[str, list[LayerReport]]:
    """Linears of one kind together: self_attn.q_proj, mlp.down_proj, ..."""
    kinds: dict[str, list[LayerReport]] = defaultdict(list)
    for layer in layers:
        kinds[".".join(layer.name.split(".")[-2:])].append(layer)
    return kinds


def scaling(members: list[LayerReport]) -> str:
    """The chosen ratio, or the range of those chosen."""
    ratios = [m.ratio for m in members if m.formula != PLAIN]
    if not ratios:
        return PLAIN
    if len(members) == 1:
        return f"{members[0].formula} ^ {ratios[0]:.2f}"
    return f"ratio {min(ratios):.2f} to {max(ratios):.2f}"


def closing_line(report: Report) -> str:
    """Where the repository is, and what was won."""
    held, predicts = report.held_out, ""
    if held:
        text = "calibration text" if held["of_calibration"] else "held-out text"
        predicts = (
            f"\nperplexity on {int(held['tokens'])} tokens of {text}: {held['reference_perplexity']:.2f} → "
            f"{held['perplexity']:.2f} ({100 * held['rise']:+.1f} %), KL {held['kl_divergence']:.4f}"
        )
    return (
        f"{report.out}: {show_size(report.source_bytes)} → {show_size(report.out_bytes)} at group size "
        f"{report.group_size}, in {show_seconds(report.seconds)}; every layer is in quantize_report.json"
        f"{predicts}"
    )
