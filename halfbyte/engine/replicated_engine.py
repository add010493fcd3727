"""`ReplicatedEngine`: an AsyncEngine of several processes, on this machine or, through Ray, on many."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from halfbyte.engine.async_engine import AsyncEngine
from halfbyte.engine.engine_process import EngineProcess
from halfbyte.engine.memory import DEFAULT_SHARES
from halfbyte.engine.replica_set import Replica, ReplicaSet
from halfbyte.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from halfbyte.engine.link import Connect, Link, OnEnd, OnMessage


class ReplicatedEngine(AsyncEngine):
    """Takes requests while at least one replica is up. One whose replica dies is answered by another, from its
    beginning, unless a part of its answer has been streamed: that stream raises EngineStoppedError.
    """

    def __init__(self, model: str | Path, *, replicas: int, ray_address: str | None = None, **settings: Any) -> None:
        """ray_address: of a Ray cluster, whose machines the replicas are then spread over; "local" begins one here.

        threads, of each replica: by default the cores of this machine, or of their share of the cluster, are divided.
        settings: AsyncEngine's. kv_cache is the memory of each replica.
        """
        if replicas < 1:
            raise ConfigError(f"replicas is {replicas}; it must be 1 or more")
        super().__init__(model, **settings)
        if ray_address is not None and settings.get("tensor_parallel_size", 1) != 1:
            raise ConfigError(
                "processes that share a network are of one machine: leave out tensor_parallel_size, or Ray"
            )
        self._count = replicas
        self._ray_address = ray_address
        self._set: ReplicaSet | None = None
        if ray_address is not None:
            from halfbyte.engine.ray_link import check_ray  # noqa: PLC0415  an extra

            check_ray()

    @property
    def is_ready(self) -> bool:
        """Whether one of them takes requests."""
        return super().is_ready and self._set is not None and self._set.is_ready

    @property
    def restarts(self) -> int:
        """Of all of them."""
        return sum(replica.restarts for replica in self.replicas)

    @property
    def replicas(self) -> Sequence[Replica]:
        """The engines that answer."""
        return self._set.replicas if self._set else []

    def _connect(self, on_message: OnMessage, on_end: OnEnd) -> Link:
        self._set = ReplicaSet(self._connector(), self._count, on_message, on_end)
        return self._set

    def _connector(self) -> Connect:
        if self._ray_address is not None:
            from halfbyte.engine.ray_link import connector  # noqa: PLC0415  an extra

            return connector(self._ray_address, self._settings, self._count)
        return partial(_start_here, self._settings, self._count)


def _start_here(settings: dict[str, Any], count: int, number: int, on_message: OnMessage, on_end: OnEnd) -> Link:
    return EngineProcess(share_of_machine(settings, number, count), on_message, on_end)


def share_of_machine(settings: dict[str, Any], number: int, count: int) -> dict[str, Any]:
    """The settings of one of so many replicas on this machine, which share its cores, its GPUs and their memory."""
    settings = dict(settings)
    on_gpus = settings.get("device", "auto") != "cpu" and settings.get("compute") != "float32"
    gpus = _visible_gpus() if on_gpus else []
    ranks = settings.get("tensor_parallel_size", 1)
    if gpus:
        first = number * ranks
        settings.setdefault("gpu", ",".join(gpus[i % len(gpus)] for i in range(first, first + min(ranks, len(gpus)))))
    settings.setdefault("threads", max(1, len(os.sched_getaffinity(0)) // count))
    together = -(-count * ranks // len(gpus)) if gpus else count
    if settings.get("kv_cache") is None and together > 1:
        settings["kv_cache"] = DEFAULT_SHARES["cuda" if gpus else "cpu"] / together
    return settings


def _visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(index) if named is None else named.split(",")[index] for index in range(torch.cuda.device_count())]
