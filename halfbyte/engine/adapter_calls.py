"""Adapters on several engines: a call has succeeded when all have answered it, and who starts later hears it too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from halfbyte.engine.messages import Call, Reply

if TYPE_CHECKING:
    from collections.abc import Iterable

TAKEN_BACK = -1  # the number of calls that nobody waits for


@dataclass(slots=True)
class Open:
    """A call, and who has not answered it."""

    call: Call
    waiting: set[int]
    error: Exception | None = None


class AdapterCalls:
    """Each method gives what is to be said now: a Reply to whoever asked, a Call to every engine."""

    def __init__(self) -> None:
        self._open: dict[int, Open] = {}
        self._loaded: dict[str, Call] = {}  # by the adapter's name

    def begin(self, call: Call, engines: Iterable[int]) -> list[Reply | Call]:
        """All these engines were told."""
        self._open[call.number] = Open(call, set(engines))
        return self._settle(call.number)

    def replied(self, reply: Reply, engine: int) -> list[Reply | Call]:
        """One of them answers."""
        if (found := self._open.get(reply.number)) is None:
            return []
        found.waiting.discard(engine)
        found.error = found.error or reply.error
        return self._settle(reply.number)

    def lost(self, engine: int) -> list[Reply | Call]:
        """One has ended, and will not answer any more."""
        said: list[Reply | Call] = []
        for number, found in list(self._open.items()):
            found.waiting.discard(engine)
            said += self._settle(number)
        return said

    def to_repeat(self) -> list[Call]:
        """What an engine must hear when it begins."""
        return [*self._loaded.values(), *(found.call for found in self._open.values())]

    def _settle(self, number: int) -> list[Reply | Call]:
        found = self._open[number]
        if found.waiting:
            return []
        del self._open[number]
        name, is_load = found.call.arguments[0], found.call.method == "load_adapter"
        reply = Reply(number, found.error)
        if found.error is not None:
            half_loaded = is_load and name not in self._loaded
            return [reply, Call(TAKEN_BACK, "unload_adapter", (name,))] if half_loaded else [reply]
        if is_load:
            self._loaded[name] = found.call
        else:
            self._loaded.pop(name, None)
        return [reply]
