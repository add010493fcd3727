"""What processes that share a network say to each other within a pass, through torch.distributed."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.distributed as dist

from halfbyte.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

torch_c10d: Any = dist  # its types do not tell of all that there is
HOST = "127.0.0.1"
PATIENCE = timedelta(minutes=10)  # for another process that is alive and does not come


class Collective(Protocol):
    """All processes call the same methods in the same order, with tensors of the same shape."""

    rank: int
    ranks: int

    def add(self, x: torch.Tensor) -> None:
        """Make contiguous x, in place, the sum over all processes: the same bits in each."""

    def copy(self, x: torch.Tensor) -> None:
        """Make contiguous x, in place, what process 0 has there."""

    def gather(self, x: torch.Tensor) -> Sequence[torch.Tensor] | None:
        """What each process has, in process 0; None in the others."""


class Group:
    """Processes of one machine: gloo on a CPU, NCCL on GPUs. Usable once it is connected.

    A group of its own, not torch.distributed's default one: that may be another program's, in whose process we are.
    """

    def __init__(self, rank: int, ranks: int, device: torch.device) -> None:
        """Raises ConfigError if this PyTorch has not what it takes."""
        self.rank, self.ranks, self.device = rank, ranks, device
        self._group: Any = None
        missing = None if dist.is_available() else "torch.distributed"
        if missing is None and device.type == "cuda" and not dist.is_nccl_available():
            missing = "NCCL"
        if missing:
            raise ConfigError(f"tensor_parallel_size is {ranks}, and this build of PyTorch has no {missing}")

    def listen(self) -> int:
        """In process 0: open a place to meet, and return its port."""
        self._store = torch_c10d.TCPStore(HOST, 0, None, True, timeout=PATIENCE, wait_for_workers=False)
        return int(self._store.port)

    def connect(self, port: int) -> None:
        """In all: meet at the place that process 0 has opened. Waits for the others."""
        if self.rank:
            self._store = torch_c10d.TCPStore(HOST, port, None, False, timeout=PATIENCE)
        if self.device.type == "cuda":
            options = torch_c10d.ProcessGroupNCCL.Options()
            options._timeout = PATIENCE
            self._group = torch_c10d.ProcessGroupNCCL(self._store, self.rank, self.ranks, options)
            return
        options = torch_c10d.ProcessGroupGloo._Options()
        options._devices = [torch_c10d.ProcessGroupGloo.create_device(hostname=HOST)]
        options._timeout = PATIENCE
        self._group = torch_c10d.ProcessGroupGloo(self._store, self.rank, self.ranks, options)

    def add(self, x: torch.Tensor) -> None:
        """See Collective.

        gloo's own sum takes an order that depends on where in x a number lies, and so on how many rows x has; a row
        must not (see kernels.interface.Kernels). So each process adds up all parts in the order of processes.
        """
        if x.device.type == "cuda":
            self._group.allreduce([x]).wait()
            return
        parts = [torch.empty_like(x) for _ in range(self.ranks)]
        self._group.allgather([parts], [x]).wait()
        torch.add(parts[0], parts[1], out=x)
        for part in parts[2:]:
            x.add_(part)

    def copy(self, x: torch.Tensor) -> None:
        """See Collective."""
        self._group.broadcast([x], dist.BroadcastOptions()).wait()

    def gather(self, x: torch.Tensor) -> list[torch.Tensor] | None:
        """See Collective."""
        parts = [torch.empty_like(x) for _ in range(self.ranks)] if self.rank == 0 else []
        self._group.gather([parts] if parts else [], [x.contiguous()], dist.GatherOptions()).wait()
        return parts or None

    def abort(self) -> None:
        """Make what waits on a GPU for a process that is gone give up. From any thread."""
        abort = getattr(self._group, "abort", None)
        if abort is not None and self.device.type == "cuda":
            abort()
