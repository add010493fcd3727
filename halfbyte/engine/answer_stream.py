"""The steps of one request, as they come from the engine's process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from halfbyte.engine.outputs import Delta


class Observer(Protocol):
    """Whoever counts and measures requests."""

    def took(self, result: Any) -> None:
        """A result came from the engine, at this moment, whenever it will be read."""

    def began_again(self) -> None:
        """What was taken is void: an engine has ended, and another one answers from the beginning."""

    def closed(self) -> None:
        """Nobody will read any more: the request has ended, or was aborted."""


class AnswerStream:
    """`async for delta in stream`. Raises what ended the request. Leaving early, or letting go of it, aborts it."""

    def __init__(self, request_id: str, answers: int, on_close: Callable[[str], None]) -> None:
        """answers: how many must end for the request to be finished."""
        self.request_id = request_id
        self._results: asyncio.Queue[Any] = asyncio.Queue()
        self._answers = self._open = answers
        self.restarts = 0  # times that the answer began again; what was read before is void
        self._on_close = on_close
        self._closed = False
        self.observer: Observer | None = None

    def put(self, result: Any) -> None:
        """Take a result: a Delta, a hidden state, or an error, which is the last."""
        if self.observer is not None and not self._closed:
            self.observer.took(result)
        self._results.put_nowait(result)

    def begin_again(self) -> None:
        """The answer comes again, from its beginning. Only for whoever looks at `restarts`."""
        while not self._results.empty():
            self._results.get_nowait()
        self._open = self._answers
        self.restarts += 1
        if self.observer is not None and not self._closed:
            self.observer.began_again()

    async def next(self) -> Any:
        """The next result of whatever kind. Raises it if it is an error."""
        result = await self._results.get()
        if isinstance(result, Exception):
            self.close()
            raise result
        return result

    def close(self) -> None:
        """Abort, if it has not ended."""
        if not self._closed:
            self._closed = True
            self._on_close(self.request_id)
            if self.observer is not None:
                self.observer.closed()

    def __aiter__(self) -> AnswerStream:
        return self

    async def __anext__(self) -> Delta:
        if self._open == 0 or self._closed:
            self.close()
            raise StopAsyncIteration
        try:
            delta: Delta = await self.next()
        except asyncio.CancelledError:
            self.close()
            raise
        if delta.finish_reason:
            self._open -= 1
            if self._open == 0:
                self.close()
        return delta

    async def __aenter__(self) -> AnswerStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def aclose(self) -> None:
        """Abort, if it has not ended."""
        self.close()

    def __del__(self) -> None:
        self.close()
