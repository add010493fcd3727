"""Finds stop strings in text that comes in pieces."""

from __future__ import annotations


class StopStrings:
    """Holds text back while it may be the beginning of a stop string.

    Where the pieces are cut makes no difference: the stop string that is complete first ends the text, and of those
    that end at the same character the longest.
    """

    def __init__(self, stops: tuple[str, ...], *, include: bool = False) -> None:
        self.stops = stops
        self.include = include
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """Text that may be shown now, and the stop string if one was found, after which nothing may be pushed."""
        if not self.stops:
            return text, None
        held = self._held + text
        found = self._first(held)
        if found is not None:
            start, stop = found
            self._held = ""
            return held[: start + len(stop)] if self.include else held[:start], stop
        keep = max(_overlap(held, stop) for stop in self.stops)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep], None

    def flush(self) -> str:
        """What was held back, when the text ends without a stop string."""
        held, self._held = self._held, ""
        return held

    def _first(self, text: str) -> tuple[int, str] | None:
        found = [(start, stop) for stop in self.stops if (start := text.find(stop)) >= 0]
        return min(found, key=lambda f: (f[0] + len(f[1]), f[0]), default=None)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop` without completing it."""
    longest = min(len(stop) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
