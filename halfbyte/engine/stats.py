"""What an engine counts."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# Passes are counted by their tokens: up to the first of these, up to the second, and so on, and more; vLLM's
PASS_SIZES = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


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
    pass_sizes: list[int] = field(default_factory=lambda: [0] * (len(PASS_SIZES) + 1))  # see `took`

    def took(self, tokens: int) -> None:
        """A pass of so many tokens went through the network."""
        self.computed_tokens += tokens
        self.pass_sizes[bisect_left(PASS_SIZES, tokens)] += 1

    @property
    def acceptance_rate(self) -> float | None:
        """The share of guessed tokens that were right; None if none was guessed."""
        return self.accepted_tokens / self.drafted_tokens if self.drafted_tokens else None


def total(parts: Iterable[Stats]) -> Stats:
    """Of several engines together."""
    together = list(parts)
    names = [each.name for each in fields(Stats) if each.name != "pass_sizes"]
    found = Stats(**{name: sum(getattr(part, name) for part in together) for name in names})
    found.pass_sizes = [sum(counts) for counts in zip(*(part.pass_sizes for part in together), strict=True)]
    return found
