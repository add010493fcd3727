"""What an engine counts."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(slots=True)
class Stats:
    """Counters since the start, and how things stand now."""

    steps: int = 0
    computed_tokens: int = 0  # that went through the network, again after a preemption
    queried_tokens: int = 0  # looked for in the prefix cache, and
    cached_tokens: int = 0  # found there
    generated_tokens: int = 0
    drafted_tokens: int = 0  # guessed by speculation, and
    accepted_tokens: int = 0  # of these, right
    preemptions: int = 0
    running: int = 0  # sequences that hold blocks
    waiting: int = 0
    blocks: int = 0
    blocks_used: int = 0

    @property
    def acceptance_rate(self) -> float | None:
        """The share of guessed tokens that were right; None if none was guessed."""
        return self.accepted_tokens / self.drafted_tokens if self.drafted_tokens else None


def total(parts: Iterable[Stats]) -> Stats:
    """Of several engines together."""
    together = list(parts)
    return Stats(*(sum(getattr(part, field.name) for part in together) for field in fields(Stats)))
