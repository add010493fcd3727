"""Holds the engine's process by its pipe.

A pipe and not zmq: there is one peer, it needs no dependency, and its end is known at once, from the pipe's own end,
however the process died. Writing and reading have threads of their own, so that the event loop never waits for either.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from halfbyte.engine import worker
from halfbyte.engine.messages import LastWords, Stop

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 5.0  # seconds for a process to end by itself


class EngineProcess:
    """One process from its start to its end."""

    def __init__(self, settings: dict[str, Any], on_message: Callable[[Any], None], on_end: Callable[[], None]) -> None:
        """on_message, on_end: called from a thread."""
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=worker.run, args=(theirs, settings), daemon=True)
        self._process.start()
        theirs.close()
        self._outbox: SimpleQueue[Any] = SimpleQueue()
        self._on_message, self._on_end = on_message, on_end
        self._last_words = ""
        for work in (self._read, self._write):
            threading.Thread(target=work, daemon=True).start()

    @property
    def pid(self) -> int | None:
        """The process's number."""
        return self._process.pid

    def send(self, message: Any) -> None:
        """Send a message, some time soon."""
        self._outbox.put(message)

    def stop(self) -> None:
        """End the process, kindly at first. Waits for it."""
        self.send(Stop())
        self._process.join(PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def how_it_ended(self) -> str:
        """For a message, once it has."""
        self._process.join(PATIENCE)
        code = self._process.exitcode
        if code is not None and code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}{self._last_words}"

    def _read(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                message = self._connection.recv()
                if isinstance(message, LastWords):
                    self._last_words = f" ({message.reason})"
                else:
                    self._on_message(message)
        self._outbox.put(None)
        self._on_end()

    def _write(self) -> None:
        with contextlib.suppress(OSError):
            while (message := self._outbox.get()) is not None:
                self._connection.send(message)
