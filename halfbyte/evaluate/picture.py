"""A picture of how long requests took."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from halfbyte.errors import IntegrationError
from halfbyte.evaluate.serving import METRICS, samples

if TYPE_CHECKING:
    from pathlib import Path

    from halfbyte.evaluate.serving import Timing


def draw(timings: list[Timing], path: str | Path, title: str) -> None:
    """Write a PNG: for each metric, which share of the requests took at most so long. Needs matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  an extra
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise IntegrationError("a picture needs matplotlib: pip install 'halfbyte[bench]'") from None
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for axes, (name, values) in zip(figure.subplots(1, len(METRICS)), samples(timings).items(), strict=True):
        axes.set_title(f"{name.upper()}: {METRICS[name]}", fontsize=9)
        axes.set_xlabel("ms")
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.3)
        if values:
            ordered = np.sort(values)
            axes.step(ordered, np.arange(1, len(ordered) + 1) / len(ordered), where="post")
            for share, style in ((0.5, "--"), (0.99, ":")):
                axes.axvline(np.percentile(ordered, share * 100), linestyle=style, color="gray", linewidth=1)
    figure.savefig(path, dpi=110, format="png")
