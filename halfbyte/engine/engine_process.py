"""Holds the engine's process by its pipe.

A pipe and not zmq: there is one peer, it needs no dependency, and its end is known at once, from the pipe's own end,
however the process died. Writing and reading have threads of their own, so that the event loop never waits for either.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import weakref
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from halfbyte.engine.child import start_child
from halfbyte.engine.messages import LastWords, Stop

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 5.0  # seconds for a process to end by itself


class EngineProcess:
    """One process from its start to its end."""

    def __init__(self, settings: dict[str, Any], on_message: Callable[[Any], None], on_end: Callable[[], None]) -> None:
        """on_message, on_end: called from a thread."""
        self._process, self._connection = start_child("halfbyte.engine.worker")
        weakref.finalize(self, self._process.kill)  # at the latest when this program ends
        with contextlib.suppress(OSError):  # if it has ended already, that will show
            self._connection.send(settings)
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
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def how_it_ended(self) -> str:
        """For a message, once it has."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE)
        code = self._process.returncode
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
