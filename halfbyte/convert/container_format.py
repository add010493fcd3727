"""awq:, gptq: and compressed-tensors: — integers with scales and zero points, in one container or another.

From an unquantized source the quantizer makes them. From a quantized one the same integers are repacked, to the bit,
or refused: rounding a second time would only lose.
"""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from halfbyte.checkpoint.gptq import V1, V2, GptqConfig
from halfbyte.checkpoint.repack import container_like, is_symmetric, repack
from halfbyte.checkpoint.size import weight_count
from halfbyte.checkpoint.writer import RepositoryWriter
from halfbyte.convert.request import ConvertReport, KindLoss, Request
from halfbyte.errors import QuantizeError
from halfbyte.quantize import QuantizeOptions, quantize

if TYPE_CHECKING:
    from halfbyte.checkpoint.container import Container
    from halfbyte.quantize import Plan

_SETTINGS = re.compile(r"(?P<bits>[2348])bit(?:-(?P<group>\d+|-1)g)?(?P<flags>(?:-(?:actorder|sym|v2))*)")
_FOR_GPTQMODEL = (
    "GPTQModel.load refuses asymmetric files of version 1 that it did not write itself; for it, write -v2 or -sym",
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a SPEC asks for; group_size None takes what fits."""

    bits: int
    group_size: int | None
    act_order: bool
    sym: bool
    v2: bool


def write_awq_container(request: Request) -> ConvertReport:
    """awq:4bit-128g."""
    return _write(request, "awq")


def write_gptq(request: Request) -> ConvertReport:
    """gptq:4bit-64g: 2, 3, 4 or 8 bits, with -actorder, -sym, and -v2 for the second version of the container."""
    return _write(request, "gptq")


def write_compressed_tensors(request: Request) -> ConvertReport:
    """compressed-tensors:4bit-64g."""
    return _write(request, "compressed-tensors")


def _write(request: Request, name: str) -> ConvertReport:
    wanted = parse(name, request.settings)
    return _quantize(request, name, wanted) if request.checkpoint.container is None else _repack(request, name, wanted)


def parse(name: str, settings: str) -> Wanted:
    """Read what follows the colon. Raises QuantizeError, with an example, if it is not a setting."""
    match = _SETTINGS.fullmatch(settings)
    flags = match["flags"] if match else ""
    if match is None or (flags and name == "awq") or ("v2" in flags and name != "gptq"):
        extra = ", and -actorder, -sym or -v2 after it" if name == "gptq" else ""
        bits = "; there are 2, 3, 4 and 8 bits" if name == "gptq" else "; there are 4 bits"
        raise QuantizeError(f"{name}:{settings} is not a format; write {name}:4bit or {name}:4bit-128g{extra}{bits}")
    group = None if match["group"] is None else int(match["group"])
    return Wanted(int(match["bits"]), group, "actorder" in flags, "sym" in flags, "v2" in flags)


def _repack(request: Request, name: str, wanted: Wanted) -> ConvertReport:
    started = time.perf_counter()
    checkpoint, options = request.checkpoint, request.options
    own = checkpoint.container
    assert own is not None
    container = container_like(checkpoint, name, version=(V2 if wanted.v2 else V1) if name == "gptq" else None)
    if not _is_asked_for(own, wanted):
        raise QuantizeError(
            f"{checkpoint.source.spec} is {own.describe()}, and {name}:{request.settings} was asked for: rounding what "
            "is rounded already would only lose; convert the model that it was made from"
        )
    writer = RepositoryWriter(request.out, max_shard_size=options.max_shard_size, overwrite=options.overwrite)
    writer.check(sum(info.nbytes for info in checkpoint.source.tensors().values()))
    request.progress.start("repacking", 1)
    with writer:
        repack(checkpoint, container, writer)
    request.progress.step(1)
    return ConvertReport(
        source=checkpoint.source.spec,
        out=str(request.out),
        format=f"{name}:{request.settings}",
        out_bytes=writer.total_size,
        bits_per_weight=8 * writer.total_size / weight_count(checkpoint.config),
        seconds=round(time.perf_counter() - started, 2),
        notes=["repacked: every weight is the same as before, to the bit", *_for_gptqmodel(container)],
    )


def _is_asked_for(own: Container, wanted: Wanted) -> bool:
    """Whether a container's settings are those of the SPEC, as far as it gives them."""
    act_order = isinstance(own, GptqConfig) and own.desc_act
    return (
        own.bits == wanted.bits
        and wanted.group_size in {None, own.group_size}
        and (act_order or not wanted.act_order)
        and (is_symmetric(own) or not wanted.sym)
    )


def _quantize(request: Request, name: str, wanted: Wanted) -> ConvertReport:
    options = request.options
    if wanted.act_order and name != "gptq":
        raise QuantizeError(f"{name}:{request.settings}: weights in activation order are made for gptq only")
    report = quantize(
        request.checkpoint.source,
        request.out,
        QuantizeOptions(
            bits=wanted.bits,
            group_size="auto" if wanted.group_size is None else wanted.group_size,
            format="gptq_v2" if wanted.v2 else name,  # type: ignore[arg-type]
            sym=wanted.sym,
            act_order=wanted.act_order,
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
        format=_full_spec(name, wanted, report.group_size),
        out_bytes=report.out_bytes,
        bits_per_weight=8 * report.out_bytes / weight_count(request.checkpoint.config),
        seconds=report.seconds,
        losses=[
            KindLoss(kind, dict(Counter({name.upper(): len(found)})), fmean(found) ** 0.5)
            for kind, found in errors.items()
        ],
        notes=[
            *report.notes,
            "errors are of the layers' outputs on calibration text, not of the weights",
            *(_FOR_GPTQMODEL if name == "gptq" and not (wanted.sym or wanted.v2) else ()),
        ],
    )


def _for_gptqmodel(container: Container) -> tuple[str, ...]:
    v1 = isinstance(container, GptqConfig) and container.checkpoint_format == V1
    return _FOR_GPTQMODEL if v1 and not is_symmetric(container) else ()


def _full_spec(name: str, wanted: Wanted, group_size: int) -> str:
    flags = {"actorder": wanted.act_order, "sym": wanted.sym, "v2": wanted.v2}
    return f"{name}:{wanted.bits}bit-{group_size}g" + "".join(f"-{flag}" for flag, given in flags.items() if given)


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
