"""What there is to choose on a GPU: defaults, and what `halfbyte bench kernels` found on this one."""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from halfbyte.kernels.cache import kernel_folder
from halfbyte.kernels.triton.device import has_matrix_units
from halfbyte.kernels.triton.linear import Cut

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

VERSION = 1  # of the file; one of another is not read


@dataclass(frozen=True, slots=True)
class Choices:
    """Numbers of tokens at which one way of a product gives way to another, and how Triton's products are cut.

    With another choice sums are taken in another order: answers may differ in near ties, not in quality.
    """

    wide_from: int = 9  # on Hopper: stream_linear.cu below, wide_linear.cu from here on
    stream_to: int = 48  # elsewhere: stream_linear.cu up to here, a float16 matrix and cuBLAS above
    triton_to: int = 32  # with Triton alone: its product up to here, a matrix above
    alone: Cut = field(default_factory=lambda: Cut(rows=1))  # of one token
    several: Cut = field(default_factory=Cut)  # of more


PLAIN = Choices()
WITHOUT_MATRIX_UNITS = Choices(triton_to=4, several=Cut(rows=1))  # Triton's dot is a loop of sums there


def default_choices(device: torch.device) -> Choices:
    """What is taken where nothing was measured."""
    return PLAIN if has_matrix_units(device) else WITHOUT_MATRIX_UNITS


@cache
def choices(device: torch.device) -> Choices:
    """A device's, from its file where there is one."""
    path = choices_path(device)
    try:
        return read_choices(path)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("%s is not read (%s); halfbyte bench kernels writes it anew", path, error)
    return default_choices(device)


def choices_path(device: torch.device) -> Path:
    """The file, in the folder where compiled kernels are kept."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return kernel_folder() / f"choices-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.json"


def read_choices(path: Path) -> Choices:
    """Raises ValueError, TypeError or KeyError for a file that is none of ours."""
    found: dict[str, Any] = json.loads(path.read_text())
    if found["version"] != VERSION:
        raise ValueError(f"it is of version {found['version']}, not {VERSION}")
    given = found["choices"]
    cuts = {name: _checked(Cut(**given[name])) for name in ("alone", "several")}
    numbers = {name: int(given[name]) for name in ("wide_from", "stream_to", "triton_to")}
    if not all(0 <= number <= 2**16 for number in numbers.values()) or numbers["wide_from"] < 1:
        raise ValueError(f"numbers of tokens are {numbers}")
    return Choices(numbers["wide_from"], numbers["stream_to"], numbers["triton_to"], cuts["alone"], cuts["several"])


def write_choices(path: Path, found: Choices, measured: dict[str, Any]) -> None:
    """Whole or not at all. measured: what they follow from, to be read by people."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"version": VERSION, "choices": as_json(found), "measured": measured}, indent=1))
    temporary.replace(path)
    choices.cache_clear()


def as_json(found: Choices) -> dict[str, Any]:
    """Their fields, a Cut's by name too."""
    plain = asdict(found)
    return plain | {name: getattr(found, name)._asdict() for name in ("alone", "several")}


def _checked(cut: Cut) -> Cut:
    powers = (1, 2, 4, 8, 16, 32)
    if cut.rows not in (1, 16) or cut.tiles not in powers[1:] or cut.warps not in powers[:5]:
        raise ValueError(f"a product cannot be cut so: {cut}")
    if not (1 <= cut.programs <= 2**16 and 1 <= cut.stages <= 8):
        raise ValueError(f"a product cannot be cut so: {cut}")
    return cut
