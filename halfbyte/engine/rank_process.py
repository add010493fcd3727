"""One of the other processes that share a network: `python -m halfbyte.engine.rank_process FD`.

It does what process 0 says, in that order, and ends when nobody is at the other end of the pipe, whose descriptor it is
given. It chooses nothing: that is done where the logits are.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from multiprocessing.connection import Connection

import torch

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.open import open_source
from halfbyte.engine.adapters import for_pass
from halfbyte.engine.cached_network import CachedNetwork
from halfbyte.engine.lora import Adapter, read_adapter
from halfbyte.engine.memory import blocks_for
from halfbyte.engine.rank_messages import Begin, DropAdapter, Failed, Head, Load, LoadAdapter, Loaded, Run
from halfbyte.errors import HalfbyteError
from halfbyte.models.collective import Group
from halfbyte.models.loader import load_network
from halfbyte.models.network import Network
from halfbyte.models.split_head import SplitHead


def main(descriptor: int) -> None:
    """Serve process 0 until it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; it is process 0 who decides
    connection: Connection = Connection(descriptor)
    try:
        _follow(connection)
    except (EOFError, ConnectionError):
        code = 0
    except BaseException as error:  # what is left to do is to tell
        code = 1
        if os.getppid() != 1:
            _tell(connection, Failed(f"{type(error).__name__}: {error}"))
    os._exit(code)  # not by Python's way out: a GPU may wait for a process that is gone


def _tell(connection: Connection, message: Failed) -> None:
    try:
        connection.send(message)
    except OSError:
        return


def _follow(connection: Connection) -> None:
    load: Load = connection.recv()
    logging.getLogger("halfbyte").setLevel(logging.ERROR)  # process 0 says it
    torch.set_num_threads(load.threads)
    device = torch.device(load.device)
    if device.type == "cuda":
        torch.cuda.set_device(load.rank)
    group = Group(load.rank, load.ranks, device)
    options = load.options
    try:
        checkpoint = Checkpoint(open_source(load.model))
        network = load_network(
            checkpoint,
            load.compute,
            adaptable=options.enable_lora,
            device=load.device,
            deterministic=options.deterministic,
            collective=group,
        )
        blocks = blocks_for(network, options, load.context)
    except (HalfbyteError, OSError) as error:
        connection.send(Loaded(stopped=error))
        return
    connection.send(Loaded(blocks))
    begin: Begin = connection.recv()
    cached = CachedNetwork(network, begin.blocks, options.block_size, options.kv_cache_dtype)
    cached.share_tokens = group.copy
    group.connect(begin.port)
    _serve(connection, network, cached)


@torch.inference_mode()
def _serve(connection: Connection, network: Network, cached: CachedNetwork) -> None:
    adapters: dict[int, Adapter] = {}
    assert network.share is not None
    whole, head = network.share.whole, network.head
    assert isinstance(head, SplitHead)
    while True:
        message = connection.recv()
        if isinstance(message, Run):
            parts = [(None if n is None else adapters[n], count) for n, count in message.adapters or ()]
            cached.run(message.plan, for_pass(parts))
        elif isinstance(message, Head):
            head.follow(message.rows, whole.hidden_size, network.device)
        elif isinstance(message, LoadAdapter):
            adapters[message.number] = read_adapter(
                message.folder, message.name, message.number, whole, network.device, network.share
            )
        elif isinstance(message, DropAdapter):
            adapters.pop(message.number, None)


if __name__ == "__main__":
    main(int(sys.argv[1]))
