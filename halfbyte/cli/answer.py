"""Shows an answer as it comes, and times it."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from halfbyte.engine.outputs import Delta


@dataclass(slots=True)
class Answer:
    """What came. Prefill lasts until the first token is there, decoding from then on; times in seconds."""

    text: str = ""
    tokens: int = 0
    finish_reason: str | None = None  # None: stopped from outside
    prefill: float = 0.0
    decode: float = 0.0

    def speed(self, prompt_tokens: int) -> str:
        """Both rates, for a remark after the answer."""
        parts = [f"{self.tokens} tokens"]
        if self.tokens > 1 and self.decode > 0:
            parts.append(f"{(self.tokens - 1) / self.decode:.1f} tok/s")
        if self.prefill > 0:
            parts.append(f"prompt of {prompt_tokens} at {prompt_tokens / self.prefill:.0f} tok/s")
        return ", ".join(parts)


def show_answer(
    deltas: Iterator[Delta], show: Callable[[str], None], stopped: Callable[[], bool] = lambda: False
) -> Answer:
    """Hand each piece of text to `show` as it comes, until the answer ends or `stopped` says so."""
    answer = Answer()
    start = first = time.perf_counter()
    try:
        for delta in deltas:
            answer.tokens += 1
            if answer.tokens == 1:
                first = time.perf_counter()
            answer.text += delta.text
            answer.finish_reason = delta.finish_reason
            show(delta.text)
            if stopped():
                break
    except KeyboardInterrupt:
        if not stopped():
            raise
    end = time.perf_counter()
    answer.prefill, answer.decode = (first - start, end - first) if answer.tokens else (end - start, 0.0)
    return answer


def to_stdout(text: str) -> None:
    """Write at once."""
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()
