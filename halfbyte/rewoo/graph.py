"""The graph of a plan: which step waits for which."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from halfbyte.rewoo.plan import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from halfbyte.rewoo.plan import Reference, Step


def graph_problems(steps: Mapping[int, Step], broken: AbstractSet[int] = frozenset()) -> list[Problem]:
    """Cycles, and references to steps that are not there. A step that refers to itself is no cycle here.

    broken: steps that are there and cannot be read, which has been said already.
    """
    found, known = [], steps.keys() | broken
    for step in steps.values():
        found += undefined(step.references, known, step.label, step.label)
    return found + [
        Problem(first.line, first.column, "a cycle: " + " waits for ".join(step.label for step in (*cycle, first)))
        for cycle in cycles(steps)
        for first in [min(cycle, key=lambda step: step.line)]
    ]


def undefined(references: Sequence[Reference], known: AbstractSet[int], label: str, who: str) -> list[Problem]:
    """References to steps that are not there, each reported once; label: some evidence's, for the form."""
    if all(reference.id in known for reference in references):
        return []
    missing = {r.id: r for r in reversed(references) if r.id not in known}
    name = re.sub("[0-9]+", "{}", label)
    return [
        Problem(r.line, r.column, f"{who} refers to {name.format(r.id)}, which no step makes") for r in missing.values()
    ]


def topological_order(steps: Mapping[int, Step]) -> list[Step]:
    """Steps, each behind those that it waits for; steps on a cycle, or behind one, are left out. Linear time."""
    waiting = {i: sum(d in steps and d != i for d in step.depends_on) for i, step in steps.items()}
    users: dict[int, list[int]] = {}
    for i, step in steps.items():
        for d in step.depends_on:
            if d != i:
                users.setdefault(d, []).append(i)
    ready = [i for i, count in waiting.items() if count == 0]
    for i in ready:  # grows while it is read
        for user in users.get(i, ()):
            waiting[user] -= 1
            if waiting[user] == 0:
                ready.append(user)
    return [steps[i] for i in ready]


def cycles(steps: Mapping[int, Step]) -> list[list[Step]]:
    """Cycles that share no step; at least one of each knot. Linear time."""
    left = dict(steps)
    for step in topological_order(steps):
        del left[step.id]
    found, done = [], set[int]()
    for start in left:
        path: dict[int, None] = {}
        here: int | None = start
        while here is not None and here not in done and here not in path:
            path[here] = None
            here = next((d for d in left[here].depends_on if d in left and d != here), None)
        if here is not None and here in path:
            walked = list(path)
            found.append([left[i] for i in walked[walked.index(here) :]])
        done |= path.keys()
    return found
