"""awq:, gptq: and compressed-tensors: — integers with scales and zero points, in one container or another.

From an unquantized source the quantizer makes 4-bit weights, which every one of these containers holds. From a
quantized one the same integers are repacked, to the bit, or refused: rounding a second time would only lose.
"""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.gptq import V1, V2, GptqConfig
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.repack import container_like, repack
from halfbyte.checkpoint.size import weight_count
from halfbyte.checkpoint.writer import RepositoryWriter
from halfbyte.convert.awq_format import write_awq
from halfbyte.convert.request import ConvertReport, Request
from halfbyte.errors import QuantizeError

if TYPE_CHECKING:
    from pathlib import Path

    from halfbyte.checkpoint.container import Container

_SETTINGS = re.compile(r"(?P<bits>[2348])bit(?:-(?P<group>\d+|-1)g)?(?P<flags>(?:-(?:actorder|sym|v2))*)")


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
    """gptq:4bit-64g, with -v2 for the second version of the container."""
    return _write(request, "gptq")


def write_compressed_tensors(request: Request) -> ConvertReport:
    """compressed-tensors:4bit-64g."""
    return _write(request, "compressed-tensors")


def _write(request: Request, name: str) -> ConvertReport:
    if request.checkpoint.container is not None:
        return _repack(request, name, parse(name, request.settings))
    if name == "awq":
        return write_awq(request)
    wanted = parse(name, request.settings)
    if wanted.bits != 4 or wanted.act_order or wanted.sym:
        raise QuantizeError(
            f"{name}:{request.settings}: unquantized weights become 4 bits, asymmetric, without activation order; "
            "other settings can be repacked from a repository that has them"
        )
    return _quantize_and_repack(request, name, wanted)


def parse(name: str, settings: str) -> Wanted:
    """Read what follows the colon. Raises QuantizeError, with an example, if it is not a setting."""
    match = _SETTINGS.fullmatch(settings)
    flags = match["flags"] if match else ""
    if match is None or (flags and name == "awq") or ("v2" in flags and name != "gptq"):
        extra = ", and -actorder, -sym or -v2 after it" if name == "gptq" else ""
        raise QuantizeError(f"{name}:{settings} is not a format; write {name}:4bit or {name}:4bit-128g{extra}")
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
        notes=["repacked: every weight is the same as before, to the bit"],
    )


def _is_asked_for(own: Container, wanted: Wanted) -> bool:
    """Whether a container's settings are those of the SPEC, as far as it gives them."""
    act_order = isinstance(own, GptqConfig) and own.desc_act
    sym = isinstance(own, GptqConfig) and own.sym
    return (
        own.bits == wanted.bits
        and wanted.group_size in {None, own.group_size}
        and (act_order or not wanted.act_order)
        and (sym or not wanted.sym)
    )


def _quantize_and_repack(request: Request, name: str, wanted: Wanted) -> ConvertReport:
    """Through a hidden AWQ repository beside OUT, which is removed."""
    RepositoryWriter(
        request.out, max_shard_size=request.options.max_shard_size, overwrite=request.options.overwrite
    ).check(0)
    between = request.out.parent / f".{request.out.name}.awq"
    group = "" if wanted.group_size is None else f"-{wanted.group_size}g"
    try:
        quantized = write_awq(
            replace(request, out=between, settings=f"4bit{group}", options=replace(request.options, overwrite=True))
        )
        _restore_card(between, request.checkpoint)
        packed = _repack(replace(request, checkpoint=Checkpoint(open_source(between))), name, wanted)
    finally:
        shutil.rmtree(between, ignore_errors=True)
    packed.source, packed.losses = quantized.source, quantized.losses
    packed.format = packed.format if group else f"{name}:{quantized.format.partition(':')[2]}"
    packed.seconds = round(packed.seconds + quantized.seconds, 2)
    packed.notes = quantized.notes
    return packed


def _restore_card(folder: Path, checkpoint: Checkpoint) -> None:
    """The source's own card, or none: the quantizer's speaks of AWQ."""
    card = checkpoint.source.file("README.md")
    path = folder / "README.md"
    path.unlink(missing_ok=True)
    if card is not None:
        path.write_bytes(card)
