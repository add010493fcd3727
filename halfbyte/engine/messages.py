"""What goes over the pipe between whoever asks and the engine's process; plain data, pickled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halfbyte.engine.request import Pooling
    from halfbyte.engine.sampling_params import SamplingParams
    from halfbyte.engine.stats import Stats


@dataclass(slots=True)
class Add:
    """Queue a request; see Engine.add. A refusal comes back as its first and last event."""

    request_id: str
    token_ids: list[int]
    params: SamplingParams
    seed: int
    priority: int
    adapter: str | None
    pooling: Pooling | None
    whole: bool = False  # nobody reads of its answer before it is complete, so that it may begin again elsewhere


@dataclass(slots=True)
class Abort:
    """End a request; nothing more may come for it."""

    request_id: str


@dataclass(slots=True)
class Call:
    """Load or unload an adapter: `load_adapter` or `unload_adapter`. Answered by a Reply of the same number."""

    number: int
    method: str
    arguments: tuple[Any, ...]


@dataclass(slots=True)
class Stop:
    """End the process."""


@dataclass(slots=True)
class Ready:
    """The model is loaded. stopped: why it could not be, and that the process ends."""

    max_model_len: int = 0
    stopped: Exception | None = None


@dataclass(slots=True)
class LastWords:
    """Why the process ends now, while it was at work."""

    reason: str


@dataclass(slots=True)
class Reply:
    """What a Call gave: nothing, or an error."""

    number: int
    error: Exception | None


@dataclass(slots=True)
class Events:
    """What one step gave, and how the engine stands. Hidden states travel as numpy arrays."""

    results: list[tuple[str, Any]]
    stats: Stats


@dataclass(slots=True)
class BeginAgain:
    """As a request's result: what has come of its answer is void; all of it comes again, from another engine."""
