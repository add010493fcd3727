"""What a run may use, and what it does when a step fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from halfbyte.errors import ToolError

OnFailure = Literal["stop", "skip", "replan"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps of one run. None: no cap."""

    concurrency: int = 16  # calls at a time
    per_tool: Mapping[str, int] = field(default_factory=dict)  # calls at a time, by tool; a tool may set its own
    calls: int | None = 200  # attempts, retries included
    tokens: int | None = None  # read and written by models; no call begins once they are used up
    seconds: float | None = 600.0  # the whole run
    evidence_chars: int = 50_000  # what is over is cut off, and the evidence says so
    first_delay: float = 0.5  # seconds before the second attempt; doubles each time, less up to half by chance
    longest_delay: float = 30.0


class BudgetError(ToolError):
    """A budget is used up, so a call was not made."""


@dataclass(slots=True)
class Spent:
    """What a run has used so far."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Read and written."""
        return self.prompt_tokens + self.completion_tokens

    def begin_call(self, limits: Limits) -> None:
        """Count a call that is about to be made. Raises BudgetError if it may not."""
        if limits.calls is not None and self.calls >= limits.calls:
            raise BudgetError(f"the budget of {limits.calls} calls is used up")
        if limits.tokens is not None and self.tokens >= limits.tokens:
            raise BudgetError(f"the budget of {limits.tokens} tokens is used up ({self.tokens})")
        self.calls += 1
