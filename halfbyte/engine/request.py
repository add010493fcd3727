"""What was asked for: a prompt, parameters, and the answers that are being made to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

    from halfbyte.engine.lora import Adapter
    from halfbyte.engine.outputs import Begun, LogprobsOfStep
    from halfbyte.engine.sampling_params import SamplingParams
    from halfbyte.engine.sequence import Sequence

Pooling = Literal["last", "mean"]


@dataclass(slots=True, eq=False)
class Request:
    """One request in the engine."""

    id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    seed: int  # answer i is drawn with the seed `seed + i`
    arrival: int  # counts requests
    priority: int = 0  # lower is served first
    adapter: Adapter | None = None
    pooling: Pooling | None = None  # no answer is wanted, but the prompt's hidden states
    sequences: list[Sequence] = field(default_factory=list)  # those that are not finished
    prompt_logprobs: list[LogprobsOfStep | None] = field(default_factory=list)  # so far
    begun: Begun | None = None  # None while it waits
    hidden_sum: torch.Tensor | None = None  # [D], of the prompt so far, for pooling="mean"
