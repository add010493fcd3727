"""The engine in this process: whoever waits for an answer drives it."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from halfbyte.errors import HalfbyteError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from halfbyte.engine.core import Engine
    from halfbyte.engine.outputs import Delta

    Result = Delta | torch.Tensor | HalfbyteError


class LocalEngine:
    """Steps an engine when somebody asks for what is not there yet, and keeps what comes for others."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._letters: dict[str, deque[Result]] = {}
        self._lock = threading.Lock()

    def add(self, *args: Any, **kwargs: Any) -> str:
        """See Engine.add."""
        with self._lock:
            request_id = self.engine.add(*args, **kwargs)
            self._letters[request_id] = deque()
        return request_id

    def take(self, request_id: str) -> list[Result]:
        """All that came for a request, driving the engine while there is nothing."""
        letters = self._letters[request_id]
        while not letters:
            with self._lock:
                if not letters:
                    assert request_id in self.engine.requests, "a request ended without a word"
                    for receiver, result in self.engine.step():
                        if receiver in self._letters:
                            self._letters[receiver].append(result)
        taken = list(letters)
        letters.clear()
        return taken

    def close(self, request_id: str) -> None:
        """End a request, wherever it is."""
        self._letters.pop(request_id, None)
        with self._lock:
            self.engine.abort(request_id)

    def stream(self, request_id: str) -> Iterator[Delta]:
        """The steps of a request of one answer. Raises what ended it. May be closed at any moment."""
        try:
            while True:
                for result in self.take(request_id):
                    if isinstance(result, HalfbyteError):
                        raise result
                    yield result  # type: ignore[misc]
                    if result.finish_reason:  # type: ignore[union-attr]
                        return
        finally:
            self.close(request_id)
