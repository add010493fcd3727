"""What holds an engine that is elsewhere: in a process of this machine, or of another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from halfbyte.engine.stats import Stats


class Link(Protocol):
    """An engine elsewhere, from its start to its end. What it says and that it has ended comes from any thread."""

    @property
    def pid(self) -> int | None:
        """Its process's number, on its machine; None while that is not known."""

    def send(self, message: Any) -> None:
        """Send a message, some time soon and in order."""

    def stop(self) -> None:
        """End it, kindly at first. Waits for it."""

    def how_it_ended(self) -> str:
        """For a message, once it has: "was ended by SIGKILL"."""


OnMessage = Callable[[Any], None]
OnEnd = Callable[[], None]
Connect = Callable[[int, OnMessage, OnEnd], Link]  # starts the replica of that number


class Standing(Protocol):
    """How one engine stands."""

    @property
    def stats(self) -> Stats:
        """Its figures."""

    @property
    def is_ready(self) -> bool:
        """Whether it takes requests."""

    @property
    def restarts(self) -> int:
        """Starts after a crash."""

    @property
    def unfinished(self) -> int:
        """Requests that it has."""

    @property
    def pid(self) -> int | None:
        """Of its process."""
