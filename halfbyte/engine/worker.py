"""The engine's own process, `python -m halfbyte.engine.worker FD`: a loop of messages and steps."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from dataclasses import replace
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

import torch

from halfbyte.engine.messages import Abort, Add, Call, Events, LastWords, Ready, Reply, Stop
from halfbyte.errors import EngineStoppedError, HalfbyteError

if TYPE_CHECKING:
    from halfbyte.engine.llm import LLM


class Pipe(Protocol):
    """An end of one."""

    def send(self, message: Any, /) -> None:
        """To the other end."""

    def recv(self) -> Any:
        """From there; waits. Raises EOFError if nobody is there any more."""

    def poll(self, timeout: float, /) -> bool:
        """Whether there is something."""


def run(descriptor: int) -> None:
    """Serve whoever is at the other end of the pipe; the first thing that it sends are the settings."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; it is the parent who decides
    connection: Connection = Connection(descriptor)
    with contextlib.suppress(EOFError, ConnectionError):  # there is nobody left to serve
        serve(connection, connection.recv())


def serve(connection: Pipe, settings: dict[str, Any]) -> None:
    """Load an LLM with these settings and serve it until Stop, or until nobody is at the other end. In any thread.

    Two settings are for the process: `threads` that it computes with, and `gpu`, the number of the one that it has.
    """
    settings = dict(settings)
    if (threads := settings.pop("threads", None)) is not None:
        torch.set_num_threads(threads)
    if (gpu := settings.pop("gpu", None)) is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # nothing has asked for a GPU in this process yet
    from halfbyte.engine.llm import LLM  # noqa: PLC0415  the errors of a damaged installation must reach the parent

    try:
        llm = LLM(**settings)
    except (HalfbyteError, OSError) as error:
        connection.send(Ready(stopped=error))
        return
    connection.send(Ready(llm.max_model_len))
    outbox: SimpleQueue[Any] = SimpleQueue()
    # a step must not wait for a reader that is slow
    writer = threading.Thread(target=_write, args=(connection, outbox), daemon=True)
    writer.start()
    if llm.engine.ranks is not None:  # an engine that has lost a part is of no use, at work or not
        llm.engine.ranks.on_loss = lambda reason: outbox.put(LastWords(reason))
    try:
        with contextlib.suppress(EOFError, OSError):
            _serve(llm, connection, outbox)
    except EngineStoppedError as error:
        outbox.put(LastWords(str(error)))
        writer.join()
    finally:
        if llm.engine.ranks is not None:
            llm.engine.ranks.end()


def _serve(llm: LLM, connection: Pipe, outbox: SimpleQueue[Any]) -> None:
    engine = llm.engine
    outbox.put(Events([], replace(engine.stats)))
    while True:
        told = True
        while not engine.has_work or connection.poll(0):
            if not told and not engine.has_work and not connection.poll(0):
                engine.count()  # what was aborted has given its blocks back, and there may be no step for a long time
                outbox.put(Events([], replace(engine.stats)))
                told = True
            message = connection.recv()
            if isinstance(message, Stop):
                return
            told = False
            _handle(llm, message, outbox)
        results = [(request, _portable(result)) for request, result in engine.step()]
        outbox.put(Events(results, replace(engine.stats)))


def _handle(llm: LLM, message: Any, outbox: SimpleQueue[Any]) -> None:
    if isinstance(message, Abort):
        llm.engine.abort(message.request_id)
    elif isinstance(message, Add):
        try:
            llm.engine.add(
                message.token_ids,
                message.params,
                message.seed,
                request_id=message.request_id,
                priority=message.priority,
                adapter=message.adapter,
                pooling=message.pooling,
            )
        except HalfbyteError as error:
            outbox.put(Events([(message.request_id, error)], llm.engine.stats))
    elif isinstance(message, Call):
        try:
            getattr(llm, message.method)(*message.arguments)
            outbox.put(Reply(message.number, None))
        except HalfbyteError as error:
            outbox.put(Reply(message.number, error))


def _write(connection: Pipe, outbox: SimpleQueue[Any]) -> None:
    with contextlib.suppress(OSError):
        while True:
            message = outbox.get()
            connection.send(message)
            if isinstance(message, LastWords):
                os._exit(1)  # the main thread may be waiting for a message, or a GPU for a process that is gone


def _portable(result: Any) -> Any:
    """torch would send a tensor as a handle to shared memory, which must outlive its process."""
    return result.numpy() if isinstance(result, torch.Tensor) else result


if __name__ == "__main__":
    run(int(sys.argv[1]))
