"""The requests that are in the engine: how their answers begin, and how they end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from halfbyte.engine.outputs import Begun

if TYPE_CHECKING:
    from collections.abc import Callable

    from halfbyte.engine.request import Request
    from halfbyte.engine.scheduler import Scheduled, Scheduler
    from halfbyte.engine.sequence import Sequence
    from halfbyte.errors import HalfbyteError


class Requests(dict[str, "Request"]):
    """Those that are not finished, by id."""

    def __init__(self, scheduler: Scheduler, new_sequence: Callable[[Request, int], Sequence]) -> None:
        """new_sequence: makes one of a request's answers."""
        super().__init__()
        self._scheduler = scheduler
        self._new_sequence = new_sequence

    def begin(self, request: Request, index: int) -> None:
        """Queue one of a request's answers."""
        sequence = self._new_sequence(request, index)
        request.sequences.append(sequence)
        self._scheduler.add(sequence)

    def note_beginnings(self, batch: list[Scheduled]) -> None:
        """Take the time of those whose prompt begins to be read with this pass."""
        now = time.monotonic()
        for item in batch:
            request = item.sequence.request
            if request.begun is None:
                request.begun = Begun(now, item.first)

    def finish(self, sequence: Sequence) -> None:
        """An answer has ended."""
        request = sequence.request
        self._scheduler.remove(sequence)
        request.sequences.remove(sequence)
        if not request.sequences:
            del self[request.id]

    def fail(self, request: Request, error: HalfbyteError) -> tuple[str, HalfbyteError]:
        """End a request with an error. What it has computed is not used again."""
        del self[request.id]
        self.drop(request, keep=False)
        return request.id, error

    def drop(self, request: Request, *, keep: bool = True) -> None:
        """End what is left of a request's answers."""
        for sequence in request.sequences:
            self._scheduler.remove(sequence, keep=keep)
        request.sequences.clear()
