"""What was done to each layer, and what it cost."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class LayerReport:
    """One linear. Errors are relative: the squared error of its output over the squared output, on calibration data."""

    name: str
    inputs: int
    outputs: int
    formula: str  # "x", "x/w" or "none": which scale formula won
    ratio: float
    error_before: float  # rounding to nearest, unscaled and unclipped
    error_after: float


@dataclass(slots=True)
class Report:
    """A finished quantization. Sizes in bytes, times in seconds."""

    source: str
    out: str
    bits: int
    group_size: int
    calib: str
    samples: int
    seq_len: int
    seed: int
    source_bytes: int = 0
    out_bytes: int = 0
    seconds: float = 0.0
    layers: list[LayerReport] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def to_json(self) -> str:
        """The report as a JSON document."""
        return json.dumps(self.as_dict(), indent=2) + "\n"
