"""Process 0's hold on the other processes that share its network.

It alone schedules and draws. What the others need to know of a pass goes to each through a pipe, a few hundred bytes;
sums within the pass go through torch.distributed (models/collective.py).
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import signal
import subprocess
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import torch

from halfbyte.engine.child import start_child
from halfbyte.engine.rank_messages import Begin, DropAdapter, Failed, Head, Load, LoadAdapter, Loaded, Run
from halfbyte.errors import ConfigError, EngineStoppedError
from halfbyte.models.collective import Group
from halfbyte.models.loader import pick_device, shares_of
from halfbyte.models.share import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

    from halfbyte.checkpoint.checkpoint import Checkpoint
    from halfbyte.engine.lora import Adapter
    from halfbyte.engine.options import EngineOptions
    from halfbyte.engine.pass_plan import PassPlan
    from halfbyte.models.loader import Compute

log = logging.getLogger(__name__)
PATIENCE = 5.0  # seconds in which a process whose end broke a pass is found to have ended


class Ranks:
    """The other processes, from their start to their end."""

    def __init__(
        self,
        model: str | Path,
        ranks: int,
        compute: Compute,
        device: torch.device,
        context: int,
        options: EngineOptions,
    ) -> None:
        """Start them; they load their shares while this one loads its own.

        On a CPU this process, too, then computes with its part of the threads. Raises ConfigError if there are fewer
        GPUs than processes.
        """
        if device.type == "cuda" and torch.cuda.device_count() < ranks:
            raise ConfigError(
                f"tensor_parallel_size is {ranks}, and PyTorch finds {torch.cuda.device_count()} GPUs here; each "
                "process needs one of its own"
            )
        self.count, self.device = ranks, device
        self.group = Group(0, ranks, device)
        self.on_loss: Callable[[str], None] | None = None  # called once, from a thread, with why
        self._lost: str | None = None
        self._told = threading.Lock()
        self._unloaded: set[int] = set()  # adapters that requests may still have
        self._processes: list[subprocess.Popen[bytes]] = []
        self._pipes: list[Connection] = []
        self._end = weakref.finalize(self, _end, self._processes, self._pipes)
        threads = torch.get_num_threads()
        if device.type == "cpu":
            threads = max(1, threads // ranks)
            torch.set_num_threads(threads)
        for rank in range(1, ranks):
            process, pipe = start_child("halfbyte.engine.rank_process")
            self._processes.append(process)
            self._pipes.append(pipe)
            pipe.send(Load(model, rank, ranks, compute, device.type, context, options, threads))

    def begin(self, blocks: int) -> int:
        """Wait until all are loaded, and connect. blocks: for which there is room here.

        Returns the blocks that all have room for. Raises what kept another process from loading.
        """
        for rank, pipe in enumerate(self._pipes, 1):
            try:
                loaded = pipe.recv()
            except EOFError:
                raise EngineStoppedError(f"{self._how_it_ended(rank)} while it was starting") from None
            if isinstance(loaded, Failed):
                raise EngineStoppedError(f"process {rank} of {self.count} could not be started: {loaded.reason}")
            assert isinstance(loaded, Loaded)
            if loaded.stopped is not None:
                raise loaded.stopped
            blocks = min(blocks, loaded.blocks)
        port = self.group.listen()
        self._send(Begin(blocks, port))
        self.group.connect(port)
        for rank in range(1, self.count):
            threading.Thread(target=_watch, args=(weakref.ref(self), self._processes[rank - 1]), daemon=True).start()
        return blocks

    @property
    def pids(self) -> list[int]:
        """Of the other processes."""
        return [process.pid for process in self._processes]

    @contextlib.contextmanager
    def in_step(self) -> Iterator[None]:
        """Held while all processes do something together. Raises EngineStoppedError if one of them is gone.

        Ctrl-C waits until it is over: the others would go on, and wait for us. Whatever else comes out of it leaves
        the processes at different places, and so they are ended.
        """
        self.check()
        with _uninterrupted():
            try:
                yield
            except BaseException as error:
                reason = self._why(error)
                self.end(reason)
                raise EngineStoppedError(reason) from error

    @contextlib.contextmanager
    def with_head(self, rows: int) -> Iterator[None]:
        """Held while logits of so many rows are computed."""
        with self.in_step():
            self._send(Head(rows))
            yield

    def run(self, plan: PassPlan, adapters: Sequence[tuple[Adapter | None, int]] | None) -> None:
        """Let the others begin a pass. adapters: of each of its sequences, and how many tokens it has."""
        numbers = None if adapters is None else [(a if a is None else a.number, count) for a, count in adapters]
        self._send(Run(plan, numbers))

    def load_adapter(self, number: int, name: str, folder: str | Path) -> None:
        """Let the others load an adapter, which this process has loaded."""
        with self.in_step():
            self._send(LoadAdapter(number, name, str(folder)))

    def unload_adapter(self, number: int) -> None:
        """Nobody can ask for an adapter any more."""
        self._unloaded.add(number)

    def drop_adapters(self, used: Callable[[], set[int]]) -> None:
        """Let the others let go of those that were unloaded, and that no request has. used: their numbers."""
        if not self._unloaded:
            return
        for number in self._unloaded - used():
            self._send(DropAdapter(number))
            self._unloaded.discard(number)

    def check(self) -> None:
        """Raise EngineStoppedError if one of the processes is gone."""
        if self._lost is not None:
            raise EngineStoppedError(self._lost)

    def end(self, reason: str = "the processes that share the network were ended") -> None:
        """End all processes. What comes later is refused, for this reason."""
        self._lost = self._lost or reason
        self._end()

    def _send(self, message: Any) -> None:
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)  # once for all
        with self._told:
            for pipe in self._pipes:
                pipe.send_bytes(data)

    def _why(self, error: BaseException) -> str:
        """Who it was that broke a step, as far as that can be told."""
        deadline = time.monotonic() + PATIENCE
        broken = isinstance(error, OSError | RuntimeError)  # as gloo says that nobody is there any more
        while broken and time.monotonic() < deadline:
            for rank, process in enumerate(self._processes, 1):
                if process.poll() is not None:
                    return self._how_it_ended(rank)
            time.sleep(0.01)
        return f"a step of {self.count} processes was broken off: {type(error).__name__}: {error}"

    def _how_it_ended(self, rank: int) -> str:
        process, pipe = self._processes[rank - 1], self._pipes[rank - 1]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        who = f"process {rank} of the {self.count} that share the network (0 to {self.count - 1})"
        with contextlib.suppress(EOFError, OSError):
            while pipe.poll(0):
                message = pipe.recv()
                if isinstance(message, Failed):
                    return f"{who} failed: {message.reason}"
        code = process.returncode
        if code is not None and code < 0:
            return f"{who} was ended by {signal.Signals(-code).name}"
        return f"{who} ended with exit code {code}"

    def _ended(self, process: subprocess.Popen[bytes]) -> None:
        """Called from a thread, when one of them has."""
        if self._lost is not None:
            return
        self._lost = self._how_it_ended(self._processes.index(process) + 1)
        self.group.abort()
        if self.on_loss is not None:
            self.on_loss(self._lost)


def start_ranks(
    checkpoint: Checkpoint,
    model: str | Path,
    ranks: int,
    compute: Compute,
    device: str,
    context: int,
    options: EngineOptions,
) -> Ranks | None:
    """The processes that share a model's network with this one; None for a size of 1.

    Raises ConfigError if the network cannot be dealt out to so many, or they are not a number of processes.
    """
    if isinstance(ranks, bool) or not isinstance(ranks, int) or ranks < 1:
        raise ConfigError(f"tensor_parallel_size is {ranks!r}; it must be a whole number, 1 or more")
    if ranks == 1:
        return None
    shares = shares_of(checkpoint, ranks)
    found = Ranks(model, ranks, compute, pick_device(device, compute), context, options)
    log.info("%s is dealt out to %d processes; %s", checkpoint.source.spec, ranks, describe(shares))
    return found


def _watch(ranks: weakref.ref[Ranks], process: subprocess.Popen[bytes]) -> None:
    process.wait()
    there = ranks()
    if there is not None:
        there._ended(process)


def _end(processes: list[subprocess.Popen[bytes]], pipes: list[Connection]) -> None:
    for pipe in pipes:
        pipe.close()
    for process in processes:
        process.kill()  # it has nothing to save, and may be waiting for another one
        process.wait()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C within has its effect behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[tuple[Any, ...]] = []
    before = signal.signal(signal.SIGINT, lambda *arguments: pressed.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed and callable(before):
        before(*pressed[0])
