"""The end of a plan: an Answer with references, or a Solver that is to make one."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class AnswerText:
    """What stands behind `Answer:` or `Solver:`, to the end of the plan."""

    at: tuple[int, int] = (0, 0)  # line and column where the text begins; (0, 0): there is none
    lines: list[str] = field(default_factory=list)
    solver: bool = False

    @property
    def begun(self) -> bool:
        """Whether the plan has one."""
        return self.at != (0, 0)

    def begin(self, at: tuple[int, int], line: str, *, solver: bool) -> None:
        """Take the rest of its first line."""
        self.at, self.solver = at, solver
        self.lines.append(line)

    @property
    def text(self) -> str:
        """All of it, without the space behind it."""
        return "\n".join(self.lines).rstrip()
