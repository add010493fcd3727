"""A conversation that is kept within a model's context."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

Message = dict[str, str]


@dataclass(slots=True)
class Conversation:
    """What was said so far: an optional system text, then user and assistant in turn."""

    system: str | None = None
    turns: list[Message] = field(default_factory=list)

    def messages(self) -> list[Message]:
        """In the form that chat templates take."""
        lead = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*lead, *self.turns]

    def ask(self, text: str) -> None:
        """Add what the user says."""
        self.turns.append({"role": "user", "content": text})

    def answer(self, text: str) -> None:
        """Add what the model said."""
        self.turns.append({"role": "assistant", "content": text})

    def take_back(self) -> None:
        """Remove the last question, which could not be answered."""
        self.turns.pop()

    def reset(self) -> None:
        """Forget all but the system text."""
        self.turns.clear()

    def trim(self, tokens: Callable[[list[Message]], int], limit: int) -> int:
        """Drop the oldest exchanges until the rest is at most `limit` tokens; the last question stays.

        Returns the number of exchanges dropped.
        """
        dropped = 0
        while len(self.turns) > 2 and tokens(self.messages()) > limit:
            del self.turns[:2]
            dropped += 1
        return dropped
