"""What process 0 of those that share a network tells the others, and they it; plain data, pickled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from halfbyte.engine.options import EngineOptions
    from halfbyte.engine.pass_plan import PassPlan
    from halfbyte.models.loader import Compute


@dataclass(slots=True)
class Load:
    """Load share `rank` of `ranks` of a model. context: the most tokens of a sequence. threads: of a CPU."""

    model: str | Path
    rank: int
    ranks: int
    compute: Compute
    device: str  # "cpu" or "cuda"
    context: int
    options: EngineOptions
    threads: int


@dataclass(slots=True)
class Loaded:
    """It is loaded, and so many blocks would find room. stopped: why it could not be, and that the process ends."""

    blocks: int = 0
    stopped: Exception | None = None


@dataclass(slots=True)
class Begin:
    """Make a cache of so many blocks, and meet the others at this port."""

    blocks: int
    port: int


@dataclass(slots=True)
class Run:
    """Take a pass through the network. adapters: the number of each sequence's, or None, and its tokens."""

    plan: PassPlan
    adapters: list[tuple[int | None, int]] | None


@dataclass(slots=True)
class Head:
    """Compute the logits of so many rows of hidden states, which come from process 0."""

    rows: int


@dataclass(slots=True)
class LoadAdapter:
    """Load an adapter under a number."""

    number: int
    name: str
    folder: str


@dataclass(slots=True)
class DropAdapter:
    """Let go of one."""

    number: int


@dataclass(slots=True)
class Failed:
    """Why a process that shares the network ends."""

    reason: str


Message = Any  # one of these
