"""The formats that can be written, by the name that begins a SPEC. A new one is a function and a line here."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.gguf_mixtures import mixture_name
from halfbyte.checkpoint.open import open_source
from halfbyte.convert.container_format import parse, write_awq_container, write_compressed_tensors, write_gptq
from halfbyte.convert.floats import no_settings, write_bf16, write_fp16
from halfbyte.convert.gguf_format import write_gguf_format
from halfbyte.convert.request import ConvertOptions, ConvertReport, Progress, Request, Silent
from halfbyte.errors import QuantizeError

if TYPE_CHECKING:
    from collections.abc import Callable


class Format(NamedTuple):
    """How a format is written, and how its SPEC looks."""

    write: Callable[[Request], ConvertReport]
    check: Callable[[str], object]  # what follows the colon; raises QuantizeError
    example: str
    takes_imatrix: bool = False


FORMATS: dict[str, Format] = {
    "gguf": Format(write_gguf_format, mixture_name, "gguf:Q4_K_M", takes_imatrix=True),
    "awq": Format(write_awq_container, partial(parse, "awq"), "awq:4bit-128g"),
    "gptq": Format(write_gptq, partial(parse, "gptq"), "gptq:4bit-64g"),
    "compressed-tensors": Format(
        write_compressed_tensors, partial(parse, "compressed-tensors"), "compressed-tensors:4bit-64g"
    ),
    "fp16": Format(write_fp16, partial(no_settings, "fp16"), "fp16"),
    "bf16": Format(write_bf16, partial(no_settings, "bf16"), "bf16"),
}


def format_of(spec: str) -> Format:
    """The format that a SPEC names. Raises QuantizeError if it is none, or has settings that the format has not."""
    name, _, settings = spec.partition(":")
    form = FORMATS.get(name.lower())
    if form is None:
        known = ", ".join(form.example for form in FORMATS.values())
        raise QuantizeError(f"--format {spec}: {name!r} is not a format that can be written; formats look like {known}")
    form.check(settings)
    return form


def convert(
    source: str | Path,
    out: str | Path,
    spec: str,
    options: ConvertOptions | None = None,
    *,
    progress: Progress | None = None,
) -> ConvertReport:
    """Convert SOURCE to the format that SPEC names, and write OUT: a folder, or for GGUF a file.

    Raises a HalfbyteError, and leaves no OUT, if the source, the SPEC or the disk does not allow it.
    """
    options = options or ConvertOptions()
    name, _, settings = spec.partition(":")
    form = format_of(spec)
    if options.imatrix is not None and not form.takes_imatrix:
        raise QuantizeError(f"--imatrix is for GGUF; {name} does not use it")
    checkpoint = Checkpoint(open_source(source))
    return form.write(Request(checkpoint, Path(out), settings, options, progress or Silent()))
