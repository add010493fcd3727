"""An engine as an actor of Ray: the same loop as in a process of this machine, in a thread of the actor's."""

from __future__ import annotations

import os
import time
import traceback
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import ray

from halfbyte.engine import worker

HEARD, SAID = "heard", "said"  # concurrency groups of one thread each, so that the order is kept both ways


class QueueConnection:
    """What a pipe's end is to an engine's process."""

    def __init__(self) -> None:
        self.heard: SimpleQueue[Any] = SimpleQueue()
        self.said: SimpleQueue[Any] = SimpleQueue()

    def send(self, message: Any) -> None:
        """To the other end."""
        self.said.put(message)

    def recv(self) -> Any:
        """From there; waits."""
        return self.heard.get()

    def poll(self, timeout: float) -> bool:
        """Whether there is something. The engine never waits for it here."""
        return not self.heard.empty()


@ray.remote(concurrency_groups={HEARD: 1, SAID: 1})
class ReplicaActor:
    """One replica."""

    def __init__(self, settings: dict[str, Any], on_this_machine: int) -> None:
        """on_this_machine: replicas that share its cores."""
        self._connection = QueueConnection()
        settings.setdefault("threads", max(1, len(os.sched_getaffinity(0)) // on_this_machine))
        Thread(target=self._serve, args=(settings,), daemon=True).start()

    def where(self) -> tuple[int, str]:
        """Its process's number, and its machine's address."""
        return os.getpid(), ray.util.get_node_ip_address()

    @ray.method(concurrency_group=HEARD)  # type: ignore[untyped-decorator]
    def hear(self, messages: list[Any]) -> None:
        """Take messages for the engine."""
        for message in messages:
            self._connection.heard.put(message)

    @ray.method(concurrency_group=SAID)  # type: ignore[untyped-decorator]
    def speak(self) -> tuple[float, list[Any]]:
        """What the engine has said since the last call; waits for something. With it, what this machine's clock of
        Begun.at must be given to become the time of day.
        """
        messages = [self._connection.said.get()]
        try:
            while True:
                messages.append(self._connection.said.get_nowait())
        except Empty:
            pass
        return time.time() - time.monotonic(), messages

    def _serve(self, settings: dict[str, Any]) -> None:
        try:
            worker.serve(self._connection, settings)
            self._connection.send(None)  # it has come to its end
        except BaseException:
            traceback.print_exc()  # to the actor's own log
            os._exit(1)
