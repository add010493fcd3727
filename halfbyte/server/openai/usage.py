"""How many tokens a request took."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(slots=True)
class Usage:
    """Counted as the answer comes."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def as_dict(self) -> dict[str, int]:
        """OpenAI's object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }

    def json(self) -> str:
        """The same as text."""
        return json.dumps(self.as_dict())
