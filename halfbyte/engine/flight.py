"""A pass between its launch and the moment when what came of it is taken note of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from halfbyte.engine.sampler import draw, draw_here, may_be_undecided, sample
from halfbyte.engine.transfer import Download, upload

if TYPE_CHECKING:
    import torch

    from halfbyte.engine.scheduler import Scheduled
    from halfbyte.engine.sequence import Sequence
    from halfbyte.models.network import Network


@dataclass(slots=True)
class Flight:
    """Either its tokens are drawn on the device, or they are chosen afterwards, from the hidden states [T, D]."""

    batch: list[Scheduled]
    outcome: Drawn | torch.Tensor
    void: set[Sequence] = field(default_factory=set)  # whose parts were computed from a token that was not theirs

    @property
    def is_for_nothing(self) -> bool:
        """Whether every answer in it has ended meanwhile."""
        return all(item.sequence.ended for item in self.batch)


class Drawn:
    """The tokens that a pass chose, by lane: its complete parts in their order."""

    def __init__(self, network: Network, batch: list[Scheduled], hidden: torch.Tensor, *, may_wait: bool) -> None:
        """may_wait: whether the device may be waited for, where that is what it takes to draw a token."""
        chosen = [item for item in batch if item.is_complete]
        for lane, item in enumerate(chosen):
            item.sequence.lane = lane
        if len(chosen) < hidden.shape[0]:
            ends = np.array([item.count for item in batch]).cumsum() - 1
            (where,) = upload([ends[[item.is_complete for item in batch]]], hidden.device)
            hidden = hidden[where]
        self.rows = [item.sequence.row for item in chosen]
        self._tokens: list[int] | None = None  # where nothing had to be waited for
        self.inputs: torch.Tensor | None = None  # of the next pass, if it may overtake: int64 [lanes]
        if not chosen:
            return
        logits = network.logits(hidden)
        steps = [item.sequence.next_step for item in chosen]
        with network.kernels.threads(len(self.rows)):
            if may_wait and logits.device.type == "cpu":
                self._tokens = draw_here(logits, self.rows, steps)
                return
            tokens = draw(logits, self.rows, steps, may_wait=may_wait)
        self._download = Download(tokens)
        self._logits = logits if not may_wait and may_be_undecided(self.rows) else None
        if not may_wait:
            self.inputs = tokens.clamp(min=0)

    def read(self) -> list[int]:
        """Wait for the tokens; DAMAGED and UNDECIDED are among them."""
        if self._tokens is not None:
            return self._tokens
        return self._download.read().tolist() if self.rows else []

    def decide(self, lane: int) -> int | None:
        """The token of a lane that is UNDECIDED. Waits for the device."""
        assert self._logits is not None
        return sample(self._logits[lane : lane + 1].clone(), [self.rows[lane]])[0]
