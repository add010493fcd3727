"""Replicas on the machines of a Ray cluster: Ray places them, starts them and tells that they have died.

Actors, and not deployments of Ray Serve: a deployment's handle sends a call to a replica of its own choice, and here
each must be spoken to by itself, to load an adapter on all, to read the figures of each, and to end a request where it
is. What Serve has beside (HTTP, autoscaling by its proxy) is done before it gets there.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import threading
import time
import weakref
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from halfbyte.engine.engine_process import PATIENCE
from halfbyte.engine.memory import DEFAULT_SHARES
from halfbyte.engine.messages import Events, Ready
from halfbyte.engine.outputs import Delta
from halfbyte.errors import ConfigError, IntegrationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from halfbyte.engine.link import Connect, OnEnd, OnMessage

LOCAL = "local"  # begins a cluster of this machine alone
OBJECT_STORE = 100 << 20  # bytes; what goes over is small, and mostly not by the store
MEMBER = "halfbyte-ray"  # the thread that has joined the cluster
SAME_CLOCK = 0.001  # seconds
KNOCKING = 5.0  # seconds for a machine to answer
PLACING = 120.0  # seconds for the cluster to have room
_beginning = threading.Lock()
_leave = threading.Event()  # the cluster, when no link is left
_links: weakref.WeakSet[RayLink] = weakref.WeakSet()


def check_ray() -> None:
    """Raise IntegrationError if Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise IntegrationError("replicas on a Ray cluster need Ray: pip install 'halfbyte[ray]'")


def connector(address: str, settings: dict[str, Any], count: int) -> Connect:
    """Starts replicas on the cluster of this address ("auto": the one that this machine belongs to)."""
    return partial(RayLink, address, settings, count)


class RayLink:
    """One actor from its start to its end. Threads of its own wait for Ray, so that the event loop never does."""

    def __init__(
        self, address: str, settings: dict[str, Any], count: int, number: int, on_message: OnMessage, on_end: OnEnd
    ) -> None:
        """number: which of so many it is."""
        self._address, self._settings, self._count, self._number = address, settings, count, number
        self._on_message, self._on_end = on_message, on_end
        self._outbox: SimpleQueue[Any] = SimpleQueue()
        self._actor: Any = None
        self._pid: int | None = None
        self._how = "could not be placed"
        self._stopped = False
        self._threads: list[threading.Thread] = []
        _links.add(self)
        self._start(self._run)

    @property
    def pid(self) -> int | None:
        """Of the actor's process, on its machine."""
        return self._pid

    def send(self, message: Any) -> None:
        """Send a message, some time soon."""
        self._outbox.put(message)

    def stop(self) -> None:
        """End the actor, which holds nothing that would be lost; with the last, leave the cluster.

        Waits for the threads: a program that ends while one of ours or of Ray's is inside Ray is aborted by it.
        """
        self._kill()
        for thread in self._threads:
            thread.join(PATIENCE)
        if all(link._stopped for link in _links):
            _leave.set()
            for thread in threading.enumerate():
                if thread.name == MEMBER:
                    thread.join(PATIENCE)

    def how_it_ended(self) -> str:
        """For a message, once it has."""
        return self._how

    def _start(self, work: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=work, daemon=True))
        self._threads[-1].start()

    def _kill(self) -> None:
        import ray  # noqa: PLC0415  an extra

        self._stopped = True
        self._outbox.put(None)
        if self._actor is not None and ray.is_initialized():
            with contextlib.suppress(ray.exceptions.RayError):  # there is no cluster any more
                ray.kill(self._actor)

    def _run(self) -> None:
        try:
            self._actor = _place(self._address, self._settings, self._count)
            if not self._stopped:
                self._serve()
        except ConfigError as error:
            self._on_message(Ready(stopped=error))
        except Exception as error:  # whatever it is, somebody waits to hear that this has ended
            self._how += f" ({type(error).__name__}: {_last_line(error)})"
        self._kill()  # it may be only out of reach, and nobody would ever speak to it again
        self._on_end()

    def _serve(self) -> None:
        import ray  # noqa: PLC0415  an extra

        try:
            self._pid, address = ray.get(self._actor.where.remote(), timeout=PLACING)
        except ray.exceptions.GetTimeoutError:
            raise ConfigError(
                f"--ray-address {self._address}: the cluster had no room for a replica within {PLACING:g} s; "
                "`ray status` tells what is taken, and a smaller --replicas needs less"
            ) from None
        self._how = f"on {address} (process {self._pid}) ended"
        self._start(self._write)
        coming = self._actor.speak.remote()
        while True:
            clock, messages = ray.get(coming)
            coming = self._actor.speak.remote()  # on its way while these are handed on
            shift = clock - (time.time() - time.monotonic())
            for message in messages:
                if message is None:
                    return
                self._on_message(message if abs(shift) < SAME_CLOCK else _with_our_clock(message, shift))

    def _write(self) -> None:
        while True:
            messages = [self._outbox.get()]
            try:
                while True:
                    messages.append(self._outbox.get_nowait())
            except Empty:
                pass
            if None in messages:
                return
            self._actor.hear.remote(messages)


def _place(address: str, settings: dict[str, Any], count: int) -> Any:
    """Begin an actor somewhere. Raises ConfigError if the cluster is not there, or not large enough."""
    import ray  # noqa: PLC0415  an extra

    with _beginning:
        if not ray.is_initialized():
            _join(address)
    from halfbyte.engine.ray_actor import ReplicaActor  # noqa: PLC0415  an extra

    settings = dict(settings)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    on_gpus = settings.get("device", "auto") != "cpu" and settings.get("compute") != "float32"
    gpus = sum(node.get("GPU", 0) for node in nodes) if on_gpus else 0
    cpus = sum(node.get("CPU", 0) for node in nodes)
    if address != LOCAL and cpus < count:
        raise ConfigError(f"--replicas {count}: the Ray cluster has {cpus:g} CPUs, and each replica takes one at least")
    share = min(1.0, gpus / count)
    on_each = -(-count // len(nodes))
    if settings.get("kv_cache") is None and (share if gpus else 1 / on_each) < 1:
        settings["kv_cache"] = DEFAULT_SHARES["cuda"] * share if gpus else DEFAULT_SHARES["cpu"] / on_each
    cpu = 0 if address == LOCAL else 1  # a cluster of our own has nothing else to keep room for
    options = {"num_cpus": cpu, "num_gpus": share, "scheduling_strategy": "SPREAD", "max_restarts": 0}
    make: Any = ReplicaActor  # ray.remote has made something else of the class
    return make.options(**options).remote(settings, on_each)


def _join(address: str) -> None:
    """Become a part of the cluster. Raises ConfigError if that fails.

    In a thread that ends with the last link: Ray has what it begins here die with the thread that began it
    (PR_SET_PDEATHSIG).
    """
    _knock(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody here was asked whether Ray may tell of it
    outcome: Future[None] = Future()

    def begin() -> None:
        import ray  # noqa: PLC0415  an extra

        here: dict[str, Any] = {}
        if address == LOCAL:
            here = {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
        try:
            ray.init(address, log_to_driver=False, configure_logging=False, **here)
        except (ConnectionError, ValueError, RuntimeError) as error:
            outcome.set_exception(ConfigError(f"--ray-address {address}: {str(error).splitlines()[0]}"))
            return
        outcome.set_result(None)
        _leave.wait()
        ray.shutdown()

    _leave.clear()
    threading.Thread(target=begin, name=MEMBER, daemon=True).start()
    try:
        outcome.result(PLACING)
    except TimeoutError:
        raise ConfigError(f"--ray-address {address}: no Ray cluster answered within {PLACING:g} s") from None


def _knock(address: str) -> None:
    """Raise ConfigError at once for an address where nobody is; Ray would try it for minutes."""
    if address.startswith("ray://"):
        raise ConfigError(f"--ray-address {address}: this is for Ray's client; give the address that `ray start` told")
    host, colon, port = address.rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), KNOCKING).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(f"--ray-address {address}: {error}; `ray start --head` begins a cluster") from error


def _with_our_clock(message: Any, shift: float) -> Any:
    """Another machine's clock began at another time: its moments as moments of ours."""
    if isinstance(message, Events):
        for _, result in message.results:
            if isinstance(result, Delta) and result.begun is not None:
                result.begun = replace(result.begun, at=result.begun.at + shift)
    return message


def _last_line(error: Exception) -> str:
    """Ray tells what went wrong elsewhere as a traceback, whose end says it."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "it says no more")
