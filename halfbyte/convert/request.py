"""What a conversion is asked for, and what it says when it is done."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from halfbyte.checkpoint.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """Options that several formats share; a format that has no use for one refuses it where that could mislead."""

    imatrix: str | None = None  # GGUF: "builtin", or the path of an imatrix file of llama.cpp
    calib: str = "builtin"  # AWQ, and --imatrix builtin: see QuantizeOptions
    samples: int = 64
    seq_len: int = 512
    seed: int = 0
    max_shard_size: int = 5_000_000_000  # bytes
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """A conversion about to be done. `settings` is what follows the colon of the SPEC."""

    checkpoint: Checkpoint
    out: Path
    settings: str
    options: ConvertOptions
    progress: Progress


class Progress(Protocol):
    """What a caller may show of a conversion."""

    def start(self, what: str, total: int) -> None:
        """A stretch of work begins, of `total` steps."""

    def step(self, done: int) -> None:
        """So many of its steps are done."""


class Silent:
    """Shows nothing."""

    def start(self, what: str, total: int) -> None:
        """Show nothing."""

    def step(self, done: int) -> None:
        """Show nothing."""


@dataclass(slots=True)
class KindLoss:
    """What tensors of one kind (self_attn.q_proj, embedding, ...) lost. Relative: root of squared error over square.

    `importance_error` weighs each input channel by its importance, where that was measured: an estimate of the
    relative error of the outputs.
    """

    kind: str
    types: dict[str, int]  # how many tensors by the type that they were written in
    relative_error: float
    importance_error: float | None = None


@dataclass(slots=True)
class ConvertReport:
    """What was written. Sizes are bytes of the file, or of tensor data in a folder."""

    source: str
    out: str
    format: str
    out_bytes: int
    bits_per_weight: float
    seconds: float
    losses: list[KindLoss] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    perplexity: float | None = None
    reference_perplexity: float | None = None
    kl_divergence: float | None = None
    top1_agreement: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)
