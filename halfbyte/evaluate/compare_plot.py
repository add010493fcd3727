"""The picture of a comparison: perplexity and KL against size, and the protocol beneath."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfbyte.errors import EvaluationError

if TYPE_CHECKING:
    from pathlib import Path

    from halfbyte.evaluate.compare import Cell, Comparison

PANELS = (("perplexity", "perplexity"), ("kl_divergence", "KL(reference || quantized), nats"))


def check_plot() -> None:
    """Raise EvaluationError, saying how to get it, if matplotlib is not there."""
    try:
        import matplotlib  # noqa: PLC0415, F401
    except ImportError:
        raise EvaluationError("the picture needs matplotlib: pip install 'halfbyte[plot]', or pass --no-plot") from None


def plot(comparison: Comparison, path: Path) -> None:
    """Write the picture as PNG: a line a method, a point a group size."""
    from matplotlib.figure import Figure  # noqa: PLC0415  takes a second to import

    measured = [cell for cell in comparison.cells if cell.skipped is None]
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    for axes, (value, title) in zip(figure.subplots(1, 2), PANELS, strict=True):
        for method in dict.fromkeys(cell.method for cell in measured):
            points = sorted((c for c in measured if c.method == method), key=lambda c: c.bytes or 0)
            sizes = [(c.bytes or 0) / 1e6 for c in points]
            axes.plot(sizes, [getattr(c, value) for c in points], marker="o", label=method)
            for size, c in zip(sizes, points, strict=True):
                axes.annotate(f"g{c.group_size}", (size, getattr(c, value)), fontsize=7, xytext=(3, 3),
                              textcoords="offset points")  # fmt: skip
        axes.margins(0.12)  # room for the labels
        if value == "perplexity":
            axes.axhline(comparison.reference_perplexity, color="grey", linestyle="--", linewidth=1, label="reference")
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlabel("size, MB of tensor data")
        axes.set_ylabel(title)
        axes.grid(visible=True, alpha=0.3)
    figure.axes[0].legend()
    figure.suptitle(str(comparison.protocol["model"]))
    figure.supxlabel(protocol_text(comparison), fontsize=7)
    figure.savefig(path, dpi=150, format="png")


def protocol_text(comparison: Comparison) -> str:
    """Every number that the figures depend on, and what was left out, as lines."""
    p = comparison.protocol
    lines = [
        f"text {p['text']}: {p['windows']} windows of {p['context']} tokens, {p['predictions']} predictions, "
        f"{p['compute']}; tokens sha256 {p['tokens_sha256'][:12]}",
        f"calibration {p['calib']}: {p['samples']} samples of {p['seq_len']} tokens, seed {p['seed']}",
        f"reference {p['model']}: perplexity {comparison.reference_perplexity:.4f}, "
        f"{comparison.reference_bytes / 1e6:.1f} MB",
        *left_out(comparison.cells),
    ]
    return "\n".join(lines)


def left_out(cells: list[Cell]) -> list[str]:
    """A line for each group size that was skipped, with its reason."""
    reasons = {cell.group_size: cell.skipped for cell in cells if cell.skipped}
    return [f"group size {size} left out: {reason}" for size, reason in reasons.items()]
