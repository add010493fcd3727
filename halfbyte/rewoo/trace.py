"""What happened in a run, step by step; it can be kept as JSON and a run resumed from it.

Times are seconds since the run began.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from halfbyte.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from halfbyte.rewoo.plan import Step

VERSION = 1
Status = Literal["waiting", "running", "done", "failed", "skipped", "cancelled"]


@dataclass(slots=True)
class Attempt:
    """One call of the tool."""

    start: float
    end: float | None = None
    error: str | None = None


@dataclass(slots=True)
class StepTrace:
    """What happened to one step."""

    id: int
    label: str
    tool: str
    argument: str  # as the plan has it
    depends_on: list[int] = field(default_factory=list)
    plan: str = ""
    status: Status = "waiting"
    input: str | None = None  # the argument with evidence in place of references
    evidence: str | None = None  # if it was skipped or has failed under "skip": what says so
    error: str | None = None
    origin: Literal["call", "cache", "earlier run"] = "call"
    start: float | None = None  # its inputs were there
    end: float | None = None
    attempts: list[Attempt] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    sources: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, step: Step) -> StepTrace:
        """Of a step that has not begun."""
        return cls(step.id, step.label, step.tool, step.argument, list(step.depends_on), step.plan)

    @property
    def seconds(self) -> float:
        """How long it took; 0 if it has not ended."""
        return self.end - self.start if self.start is not None and self.end is not None else 0.0


@dataclass(slots=True)
class Trace:
    """What happened in a run."""

    plan: str = ""  # its text
    question: str = ""
    status: Literal["running", "done", "failed", "cancelled"] = "running"
    answer: str | None = None
    error: str | None = None
    seconds: float = 0.0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    steps: list[StepTrace] = field(default_factory=list)
    replaced: Trace | None = None  # the run that failed before the plan was made anew

    def renew(self) -> None:
        """Begin anew, for another plan to the same question; what it was is kept in `replaced`."""
        fresh = Trace(question=self.question, replaced=replace(self))
        for f in fields(Trace):
            setattr(self, f.name, getattr(fresh, f.name))

    @property
    def critical_path(self) -> float:
        """Seconds of the longest chain of steps, which no scheduler can go below."""
        longest: dict[int, float] = {}
        for step in sorted(self.steps, key=lambda s: s.end or 0.0):  # a step ends after those that it waits for
            longest[step.id] = step.seconds + max((longest.get(d, 0.0) for d in step.depends_on), default=0.0)
        return max(longest.values(), default=0.0)

    def to_json(self) -> str:
        """As text, for a file."""
        return json.dumps({"halfbyte_trace": VERSION, **asdict(self)}, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Trace:
        """Read it back. Raises TraceError if it is something else."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise TraceError(f"not a trace: {e}") from e
        if not isinstance(value, dict) or value.pop("halfbyte_trace", None) != VERSION:
            raise TraceError(f"not a trace of a run: no halfbyte_trace {VERSION}")
        return _trace(value, "trace")


def _trace(value: Mapping[str, Any], where: str) -> Trace:
    trace: Trace = _build(Trace, value, where)
    trace.steps = [_step(step, f"{where}, step {n}") for n, step in enumerate(_list(value.get("steps"), where))]
    replaced = value.get("replaced")
    trace.replaced = None if replaced is None else _trace(_mapping(replaced, where), f"{where}, replaced")
    return trace


def _step(value: Any, where: str) -> StepTrace:
    step: StepTrace = _build(StepTrace, _mapping(value, where), where)
    step.attempts = [_build(Attempt, _mapping(a, where), where) for a in _list(value.get("attempts", []), where)]
    for name, kind in (("id", int), ("tool", str), ("argument", str), ("label", str)):
        if not isinstance(getattr(step, name), kind):
            raise TraceError(f"{where}: {name} is {getattr(step, name)!r:.40}")
    for name in ("input", "evidence"):
        if not isinstance(getattr(step, name), str | None):
            raise TraceError(f"{where}: {name} is {getattr(step, name)!r:.40}")
    return step


def _build(kind: Any, value: Mapping[str, Any], where: str) -> Any:
    known = {f.name for f in fields(kind)}
    try:
        return kind(**{name: item for name, item in value.items() if name in known})
    except TypeError as e:
        raise TraceError(f"{where}: {e}") from e


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TraceError(f"{where} is not an object")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise TraceError(f"{where}: a list is missing")
    return value
