"""Several engines with the same model behind one door: where requests go, and what becomes of them when one dies.

Lives in one event loop, between AsyncEngine, which takes it for a single process, and the links to the replicas.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from halfbyte.engine.adapter_calls import AdapterCalls
from halfbyte.engine.messages import Abort, Add, BeginAgain, Call, Events, Ready, Reply, Stop
from halfbyte.engine.outputs import Delta
from halfbyte.engine.prefix_router import PrefixRouter
from halfbyte.engine.stats import Stats, total
from halfbyte.errors import EngineStoppedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from halfbyte.engine.link import Connect, Link, OnEnd, OnMessage

LOG = logging.getLogger("halfbyte.server")
MOST_MOVES = 2  # a request that was there at one crash more may be what kills them
PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds before one that could not be started is started once more


@dataclass(slots=True, eq=False)
class Replica:
    """One of the engines, through all its lives."""

    number: int
    link: Link | None = None
    stats: Stats = field(default_factory=Stats)
    is_ready: bool = False
    restarts: int = 0
    failures: int = 0  # to start, since it was last ready
    refusal: Exception | None = None  # why it could not be started, while it is ending
    unfinished: int = 0  # requests that it has

    @property
    def pid(self) -> int | None:
        """Of its process, on its machine."""
        return self.link.pid if self.link else None


@dataclass(slots=True, eq=False)
class Placed:
    """A request: what was asked, and where it is."""

    add: Add
    replica: Replica | None = None  # None: it waits until one is ready
    begun: bool = False  # something of its answer has come
    moves: int = 0


class ReplicaSet:
    """A Link to several."""

    def __init__(self, connect: Connect, count: int, on_message: OnMessage, on_end: OnEnd) -> None:
        """Start them all. on_message: hears them as if they were one engine. on_end: called if one could not be
        started before any was ready.
        """
        self._connect, self._on_message, self._on_end = connect, on_message, on_end
        self._loop = asyncio.get_running_loop()
        self._router = PrefixRouter()
        self._requests: dict[str, Placed] = {}
        self._calls = AdapterCalls()
        self._was_ready = False  # one of them, at least once
        self._stopped = False
        self._how = "is running"
        self.replicas = [Replica(number) for number in range(count)]
        for replica in self.replicas:
            self._launch(replica)

    @property
    def pid(self) -> int | None:
        """Each has its own."""
        return None

    @property
    def is_ready(self) -> bool:
        """Whether at least one takes requests."""
        return any(replica.is_ready for replica in self.replicas)

    def send(self, message: Any) -> None:
        """Place a request, end one, or tell all of an adapter."""
        if isinstance(message, Add):
            placed = self._requests[message.request_id] = Placed(message)
            self._place(placed)
        elif isinstance(message, Abort):
            ended = self._requests.pop(message.request_id, None)
            if ended is not None and ended.replica is not None:
                ended.replica.unfinished -= 1
                self._tell(ended.replica, message)
        elif isinstance(message, Call):
            there = [replica for replica in self.replicas if replica.link is not None]
            for replica in there:
                self._tell(replica, message)
            self._answer(self._calls.begin(message, (replica.number for replica in there)))

    def stop(self) -> None:
        """End them all."""
        self._stopped = True
        links = [replica.link for replica in self.replicas if replica.link is not None]
        for link in links:  # so that none waits for another
            link.send(Stop())
        for link in links:
            link.stop()

    def how_it_ended(self) -> str:
        """The first that could not be started, when none could."""
        return self._how

    def _launch(self, replica: Replica) -> None:
        """Begin a life. Adapters come before any request, as the link keeps the order."""
        if self._stopped:
            return

        def hand(what: Callable[..., None], *arguments: Any) -> None:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(what, replica, link, *arguments)

        link = self._connect(replica.number, lambda message: hand(self._take, message), lambda: hand(self._ended))
        replica.link = link
        for call in self._calls.to_repeat():
            self._tell(replica, call)

    def _tell(self, replica: Replica, message: Any) -> None:
        if replica.link is not None:
            replica.link.send(message)

    def _place(self, placed: Placed) -> None:
        loads = {replica.number: replica.unfinished for replica in self.replicas if replica.is_ready}
        if not loads:
            return
        add = placed.add
        replica = self.replicas[self._router.choose(add.token_ids, loads, adapter=add.adapter)]
        placed.replica = replica
        replica.unfinished += 1
        self._tell(replica, add)

    def _take(self, replica: Replica, link: Link, message: Any) -> None:
        """A replica says something."""
        if link is not replica.link or self._stopped:
            return
        if isinstance(message, Events):
            self._take_events(replica, message)
        elif isinstance(message, Reply):
            self._answer(self._calls.replied(message, replica.number))
        elif isinstance(message, Ready):
            replica.refusal = message.stopped
            if message.stopped is None or not self._was_ready:
                self._on_message(message)
            if message.stopped is None:
                self._was_ready = replica.is_ready = True
                replica.failures = 0
                for placed in self._requests.values():
                    if placed.replica is None:
                        self._place(placed)

    def _take_events(self, replica: Replica, events: Events) -> None:
        if events.stats.blocks != replica.stats.blocks:
            self._router.resize(replica.number, events.stats.blocks)
        replica.stats = events.stats
        mine = []
        for request_id, result in events.results:
            placed = self._requests.get(request_id)
            if placed is not None and placed.replica is replica:  # not one that has ended
                placed.begun = True
                if isinstance(result, Delta) and result.begun is not None:
                    result.begun = replace(result.begun, engine=replica.number)
                mine.append((request_id, result))
        self._pass_on(mine)

    def _pass_on(self, results: list[tuple[str, Any]]) -> None:
        self._on_message(Events(results, total(replica.stats for replica in self.replicas)))

    def _answer(self, replies: list[Reply | Call]) -> None:
        """What is known of adapters by now: replies for whoever asked, and calls that take back what half succeeded."""
        for each in replies:
            if isinstance(each, Reply):
                self._on_message(each)
            else:
                for replica in self.replicas:
                    self._tell(replica, each)

    def _ended(self, replica: Replica, link: Link) -> None:
        """A replica is gone: its requests go to others or wait, and it is started again."""
        if link is not replica.link or self._stopped:
            return
        how = f"replica {replica.number} {link.how_it_ended()}"
        started, replica.is_ready, replica.link = replica.is_ready, False, None
        replica.stats, replica.unfinished = Stats(), 0
        self._router.forget(replica.number)
        self._answer(self._calls.lost(replica.number))
        if not self._was_ready:
            self._give_up(how)
            return
        LOG.warning("a replica has ended", extra={"fields": {"how": how}})
        self._move(replica, how)
        if started:
            replica.restarts += 1
            self._launch(replica)
            return
        if not self.is_ready:
            self._fail_waiting(f"{how} while it was started: {replica.refusal or 'its log tells why'}")
        pause = PAUSES[min(replica.failures, len(PAUSES) - 1)]
        replica.failures += 1
        self._loop.call_later(pause, self._launch, replica)

    def _give_up(self, how: str) -> None:
        """What cannot be started the first time will not be the second."""
        self._how = how
        self._loop.run_in_executor(None, self.stop)
        self._on_end()

    def _move(self, replica: Replica, how: str) -> None:
        """Give the requests that it had to others; those of which somebody has read a part end."""
        results: list[tuple[str, Any]] = []
        moved = []
        for request_id, placed in list(self._requests.items()):
            if placed.replica is not replica:
                continue
            placed.replica, placed.moves = None, placed.moves + 1
            if placed.moves > MOST_MOVES or (placed.begun and not placed.add.whole):
                results.append((request_id, EngineStoppedError(f"{how} before the request was answered")))
                del self._requests[request_id]
                continue
            if placed.begun:
                results.append((request_id, BeginAgain()))
                placed.begun = False
            moved.append(placed)
        self._pass_on(results)
        for placed in moved:
            self._place(placed)

    def _fail_waiting(self, reason: str) -> None:
        waiting = [request_id for request_id, placed in self._requests.items() if placed.replica is None]
        for request_id in waiting:
            del self._requests[request_id]
        self._pass_on([(request_id, EngineStoppedError(reason)) for request_id in waiting])
