"""Sizes in bytes as people write them."""

from __future__ import annotations

import re

import typer

UNITS = {
    "": 1,
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", start=1)},
    **{f"{prefix}iB".upper(): 1024**power for power, prefix in enumerate("KMGT", start=1)},
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


def parse_size(text: str | int) -> int:
    """Bytes of "5GB" (10⁹ a GB), "500 MB", "2GiB" (2³⁰ a GiB) or "123456". Wrong usage raises typer.BadParameter."""
    match = _SIZE.fullmatch(str(text).strip())
    unit = match and UNITS.get(match[2].upper())
    if match is None or unit is None:
        raise typer.BadParameter(f"{text!r} is not a size; write it as 5GB, 500MB or 2GiB")
    size = int(float(match[1]) * unit)
    if size == 0:
        raise typer.BadParameter("a size must be more than 0 bytes")
    return size


def parse_share(text: str) -> float:
    """0.05 of "5%" or "0.05". Wrong usage raises typer.BadParameter."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a share; write it as 5% or 0.05")
    return float(match[1]) / (100 if match[2] else 1)


def show_size(size: float) -> str:
    """Bytes in decimal units: 3.89 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.2f} {unit}"
        size /= 1000
    return f"{size:.2f} TB"
