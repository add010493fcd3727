"""Fenced code in Markdown, as far as answers of models need it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from halfbyte.prompts.position import Span

if TYPE_CHECKING:
    from halfbyte.prompts.position import Line, Text


@dataclass(frozen=True, slots=True)
class Fence:
    """One fenced block. `closed` is False where the text ends first."""

    language: str  # lower case; "" where none is given
    code: str
    span: Span  # of the code
    first_line: int  # index of the opening line
    end_line: int  # index of the first line after the block
    closed: bool


def find_fences(text: Text) -> list[Fence]:
    """All fenced blocks: from a line that begins with three or more backticks or tildes, to one of as many alone."""
    fences: list[Fence] = []
    opened: tuple[int, str, str] | None = None  # index of the line, its marks, its language
    lines = text.lines()
    for i, line in enumerate(lines):
        marks, info = _marks(line.text)
        if opened is None:
            if marks and info.endswith(marks) and len(info) > len(marks):  # all on one line
                fences.append(_one_line(text, line, info.removesuffix(marks), i))
            elif marks and "`" not in info:
                opened = (i, marks, info.split()[0].lower() if info.strip() else "")
        elif marks.startswith(opened[1]) and not info.strip():
            fences.append(_fence(text, lines, opened, i, closed=True))
            opened = None
    if opened is not None:
        fences.append(_fence(text, lines, opened, len(lines), closed=False))
    return fences


def _marks(line: str) -> tuple[str, str]:
    """The fence marks that begin a line, and the rest."""
    body = line.strip()
    char = body[:1]
    if char not in ("`", "~") or not body.startswith(char * 3):
        return "", ""
    rest = body.lstrip(char)
    return body[: len(body) - len(rest)], rest


def _fence(text: Text, lines: list[Line], opened: tuple[int, str, str], end: int, *, closed: bool) -> Fence:
    first, _, language = opened
    inner = lines[first + 1 : end]
    start = inner[0].start if inner else lines[first].start + len(lines[first].text)
    stop = inner[-1].start + len(inner[-1].text) if inner else start
    depth = len(lines[first].text) - len(lines[first].text.lstrip())  # that of a list the block stands in
    code = "\n".join(_less_deep(line.text, depth) for line in inner)
    return Fence(language, code, text.span(start, stop), first, end + closed, closed)


def _less_deep(line: str, depth: int) -> str:
    """A line of code without as much of its indentation as the fence has."""
    return line[min(depth, len(line) - len(line.lstrip())) :]


def _one_line(text: Text, line: Line, inner: str, index: int) -> Fence:
    word, _, rest = inner.partition(" ")
    language, code = (word, rest) if rest and word.isalpha() else ("", inner)
    start = line.start + line.text.index(inner) + len(inner) - len(code)
    return Fence(language.lower(), code.strip(), text.span(start, start + len(code)), index, index + 1, True)
