"""What was done to each layer, and what it cost."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

OF_THE_RUN = ("seconds", "resumed_blocks")


@dataclass(slots=True)
class LayerReport:
    """One linear. Errors are relative: the squared error of its output over the squared output, on calibration data."""

    name: str
    inputs: int
    outputs: int
    formula: str  # "x", "x/w" or "none": which scale formula won
    ratio: float
    error_before: float  # rounding to nearest, unscaled and unclipped
    error_after: float  # of what was rounded: with `follow`, the weight that makes up for the layers before


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
    effort: str = "default"
    texts: int = 0  # of the calibration data, packed into `samples` of `seq_len` tokens
    text_tokens: int = 0  # in them; what was not sampled is not used
    held_out: dict[str, float] | None = None  # perplexity, reference_perplexity, kl_divergence, rise, tokens
    tuned: dict[str, float] | None = None  # kl_divergence on held-out samples before and after tuning
    kept_float: dict[str, str] = field(default_factory=dict)  # linears that stay in 16 bits, and why
    resumed_blocks: int = 0  # finished by an earlier, stopped run
    source_bytes: int = 0
    out_bytes: int = 0
    seconds: float = 0.0
    layers: list[LayerReport] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def to_json(self) -> str:
        """The report as the repository holds it: without what differs from run to run of the same command."""
        return json.dumps({k: v for k, v in self.as_dict().items() if k not in OF_THE_RUN}, indent=2) + "\n"
