"""Lets Ctrl-C stop a piece of work between two steps of it, instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType


class Interrupt:
    """While it lasts, the first Ctrl-C only sets a flag; a second one interrupts as usual."""

    def __init__(self) -> None:
        self._set = False
        self._before: Any = None

    def is_set(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self._set

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: Any) -> None:
        if self._set:
            raise KeyboardInterrupt
        self._set = True
