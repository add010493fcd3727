"""Places in a text: what parsers keep with all that they find, and what their errors name."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from halfbyte.errors import PromptError


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a text: characters `start` to `end` (not included); line and column of its start, from 1."""

    start: int
    end: int
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its end, and where it begins."""

    text: str
    start: int


class Text:
    """A text that knows its lines. A line ends at \\n; a \\r before it belongs to the end."""

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise PromptError(f"a text is needed, not a {type(text).__name__}")
        self.text = text
        self._starts = [0]
        self._starts += [i + 1 for i in _newlines(text)]

    def lines(self) -> list[Line]:
        """All lines; a final newline does not open another."""
        ends = [*(start - 1 for start in self._starts[1:]), len(self.text)]
        lines = [Line(self.text[a:b].removesuffix("\r"), a) for a, b in zip(self._starts, ends, strict=True)]
        return lines[:-1] if self.text.endswith("\n") or not self.text else lines

    def span(self, start: int, end: int) -> Span:
        """The piece from `start` to `end`."""
        row = bisect_right(self._starts, start) - 1
        return Span(start, end, row + 1, start - self._starts[row] + 1)

    def error(self, message: str, offset: int) -> PromptError:
        """An error that names the place at `offset`."""
        place = self.span(offset, offset)
        return PromptError(message, place.line, place.column)


def _newlines(text: str) -> list[int]:
    found, at = [], text.find("\n")
    while at >= 0:
        found.append(at)
        at = text.find("\n", at + 1)
    return found
