"""Where the argument of a call ends: brackets are balanced, over several lines if need be."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

BRACKET = re.compile(r"[\[\]]")
CALL = re.compile(r"(?<![\w.-])([^\W\d][\w.-]*)[ \t]*\[")


@dataclass(slots=True)
class OpenCall:
    """A call whose argument is being read, line by line; each line is looked at once."""

    id: int
    label: str
    tool: str
    plan: str
    at: tuple[int, int]  # of the label; line and column
    tool_at: tuple[int, int]
    argument_at: tuple[int, int]
    lines: list[str] = field(default_factory=list)
    depth: int = 1
    last_close: tuple[int, int] | None = None  # the last ] so far: which line of the argument, where in it
    past_header: bool = False  # a line began as a Plan or an Answer does: a ] after it can only be the balanced one

    def read(self, line: str, start: int) -> int | None:
        """Take `line[start:]` into the argument; if the brackets come to balance, the place behind the last."""
        for match in BRACKET.finditer(line, start):
            self.depth += 1 if match[0] == "[" else -1
            if self.depth == 0:
                self.lines.append(line[start : match.start()])
                return match.end()
            if match[0] == "]" and not self.past_header:
                self.last_close = (len(self.lines), match.start() - start)
        self.lines.append(line[start:])
        return None

    def extend(self, text: str) -> None:
        """The argument goes on behind its balanced close, for there are more ] than [ in the line."""
        self.lines[-1] += text

    def cut_at_last_close(self) -> str:
        """End the argument at the last ] seen; returns what stood behind it. There must be one."""
        assert self.last_close is not None
        line, offset = self.last_close
        ignored = "\n".join([self.lines[line][offset + 1 :], *self.lines[line + 1 :]])
        self.lines = [*self.lines[:line], self.lines[line][:offset]]
        return ignored

    @property
    def argument(self) -> str:
        """What was read so far."""
        return "\n".join(self.lines)


def surplus_close(text: str) -> int | None:
    """The place behind the last ] of a text that has a ] too many; None if it has not."""
    depth = lowest = 0
    last = 0
    for match in BRACKET.finditer(text):
        depth += 1 if match[0] == "[" else -1
        lowest = min(lowest, depth)
        last = match.end() if match[0] == "]" else last
    return last if lowest < 0 else None
