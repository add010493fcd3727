"""awq:4bit-128g: AutoAWQ's container, by the quantizer."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from statistics import fmean
from typing import TYPE_CHECKING

from halfbyte.checkpoint.size import weight_count
from halfbyte.convert.request import ConvertReport, KindLoss, Request
from halfbyte.errors import QuantizeError
from halfbyte.quantize import QuantizeOptions, quantize

if TYPE_CHECKING:
    from halfbyte.quantize import Plan

_SETTINGS = re.compile(r"4bit(?:-(?P<group>\d+|-1)g)?")


class _Blocks:
    """The quantizer's progress as a conversion's."""

    def __init__(self, request: Request) -> None:
        self.progress = request.progress

    def plan(self, plan: Plan) -> None:
        self.progress.start("quantizing blocks", plan.layers)

    def block(self, done: int, total: int) -> None:
        self.progress.step(done)

    def tuning(self, done: int, total: int) -> None:
        self.progress.start("tuning scales", total)
        self.progress.step(done)


def write_awq(request: Request) -> ConvertReport:
    """Quantize. `4bit-128g` gives the group size, `4bit--1g` one group a row; `4bit` takes the largest that divides."""
    match = _SETTINGS.fullmatch(request.settings)
    if match is None:
        raise QuantizeError(
            f"awq:{request.settings} is not a format; write awq:4bit, or with a group size awq:4bit-128g"
        )
    options = request.options
    report = quantize(
        request.checkpoint.source,
        request.out,
        QuantizeOptions(
            group_size="auto" if match["group"] is None else int(match["group"]),
            calib=options.calib,
            samples=options.samples,
            seq_len=options.seq_len,
            seed=options.seed,
            max_shard_size=options.max_shard_size,
            overwrite=options.overwrite,
        ),
        progress=_Blocks(request),
    )
    errors: dict[str, list[float]] = defaultdict(list)
    for layer in report.layers:
        errors[".".join(layer.name.split(".")[-2:])].append(layer.error_after)
    return ConvertReport(
        source=report.source,
        out=report.out,
        format=f"awq:4bit-{report.group_size}g",
        out_bytes=report.out_bytes,
        bits_per_weight=8 * report.out_bytes / weight_count(request.checkpoint.config),
        seconds=report.seconds,
        losses=[
            KindLoss(kind, dict(Counter({"AWQ": len(found)})), fmean(found) ** 0.5) for kind, found in errors.items()
        ],
        notes=[*report.notes, "errors are of the layers' outputs on calibration text, not of the weights"],
    )
