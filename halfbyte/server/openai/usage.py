"""How many tokens a request took."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halfbyte.engine.outputs import Begun


@dataclass(slots=True)
class Usage:
    """Counted as the answer comes."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0  # of the prompt, that were found in the prefix cache

    def began(self, begun: Begun | None) -> None:
        """A prompt began to be read, if it did with this step."""
        if begun is not None:
            self.cached_tokens += begun.cached_tokens

    def as_dict(self) -> dict[str, Any]:
        """OpenAI's object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    def json(self) -> str:
        """The same as text."""
        return json.dumps(self.as_dict())
