"""The source's blocks, each read while the one before it is worked on."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from halfbyte.quantize.block import norms, source_block

if TYPE_CHECKING:
    from collections.abc import Iterator

    from halfbyte.checkpoint.checkpoint import Checkpoint
    from halfbyte.models.network import Block


def read_ahead(checkpoint: Checkpoint, begin: int, device: torch.device) -> Iterator[tuple[int, Block]]:
    """Blocks from `begin` on, on the device; at most two are held, the one handed out and the one after it.

    A GPU is sent them by a stream of its own, so that no kernel waits for a disk.
    """
    checkpoint = checkpoint.on(None if device.type == "cpu" else device)
    side = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def read(layer: int) -> tuple[Block, torch.cuda.Event | None]:
        with torch.no_grad(), contextlib.nullcontext() if side is None else torch.cuda.stream(side):
            block = source_block(checkpoint, layer)
            return block, None if side is None else side.record_event()

    last = checkpoint.config.num_layers - 1
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(read, begin) if begin <= last else None
        for layer in range(begin, last + 1):
            assert following is not None
            block, there = following.result()
            following = pool.submit(read, layer + 1) if layer < last else None
            if there is not None:
                _take_over(block, there, device)
            yield layer, block
            del block


def _take_over(block: Block, there: torch.cuda.Event, device: torch.device) -> None:
    """Let the kernels to come wait for the copies, and the memory of these wait for the kernels."""
    current = torch.cuda.current_stream(device)
    current.wait_event(there)
    tensors = [t for w in block.linears().values() for t in (w.weight, w.bias)] + list(norms(block).values())
    for tensor in tensors:
        if isinstance(tensor, torch.Tensor):
            tensor.record_stream(current)  # type: ignore[no-untyped-call]
