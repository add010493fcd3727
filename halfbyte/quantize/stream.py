"""The samples on their way through one network, block by block and stage by stage.

Two such streams run side by side: the float model's, and that of the model being quantized.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from halfbyte.errors import QuantizeError
from halfbyte.kernels.reference import Observe, rms_norm
from halfbyte.models.attend import WholeSequences
from halfbyte.models.network import split_heads
from halfbyte.quantize.block import float_weight
from halfbyte.quantize.product import product

if TYPE_CHECKING:
    from collections.abc import Iterator

    from halfbyte.checkpoint.config import ModelConfig
    from halfbyte.kernels.interface import LinearWeight
    from halfbyte.models.network import Block
    from halfbyte.models.rope import Rope
    from halfbyte.quantize.activations import Activations

MICRO_BATCH_TOKENS = 2048  # what an MLP makes of more is larger than what a C library hands on without new pages
ON_A_GPU = 8192  # the same there: each adds to sums of K² numbers once


def linear(x: torch.Tensor, w: LinearWeight) -> torch.Tensor:
    """[T, K] -> [T, N], in float32 whatever type the weight is stored in."""
    return product(x, float_weight(w), w.bias)


def micro_batches(begin: int, end: int, length: int, device: str = "cpu") -> Iterator[slice]:
    """Samples from `begin` to `end` of `length` tokens each, in runs of about as many tokens as suit a device."""
    at_once = max(1, tokens_at_once(device) // length)
    for first in range(begin, end, at_once):
        yield slice(first, min(first + at_once, end))


def tokens_at_once(device: str) -> int:
    """Of a micro-batch, on a type of device."""
    return ON_A_GPU if device == "cuda" else MICRO_BATCH_TOKENS


class Stream:
    """Hidden states [samples, length, D] as they stand before, or half-way through, a block with float weights.

    A block's norms are float32, its linears of any float type.
    """

    def __init__(self, config: ModelConfig, rope: Rope, hidden: Activations) -> None:
        self.config, self.rope, self.hidden = config, rope, hidden
        self.unseen: list[tuple[slice, torch.Tensor]] = []  # which samples' outputs are finite, not looked at yet

    def read(self, part: slice) -> torch.Tensor:
        """The hidden states of some samples, [n, length, D]."""
        return self.hidden.read(part.start, part.stop)

    def qkv_input(self, block: Block, part: slice) -> torch.Tensor:
        """[T, D], T the tokens of all the part's samples."""
        hidden = self.read(part)
        return rms_norm(hidden.view(-1, hidden.shape[-1]), block.input_norm, self.config.rms_norm_eps)

    def attend(self, block: Block, layer: int, x: torch.Tensor, part: slice) -> torch.Tensor:
        """From the input of q, k, v to that of o, [T, H * d]."""
        samples = part.stop - part.start
        cos, sin = self.rope(torch.arange(x.shape[0] // samples, device=x.device).repeat(samples))
        norms = None if block.q_norm is None or block.k_norm is None else (block.q_norm, block.k_norm)
        q, k, v = split_heads(linear(x, block.qkv), self.config, norms, cos, sin)
        return WholeSequences(self.config, samples)(layer, q, k, v)

    def add_attended(self, block: Block, part: slice, attended: torch.Tensor) -> None:
        """Add o's output to the hidden states, which are then half-way through the block."""
        hidden = self.read(part)
        self.hidden.write(part.start, hidden + linear(attended, block.after.o).view_as(hidden))

    def mlp_input(self, block: Block, part: slice) -> torch.Tensor:
        """The input of gate and up, [T, D]."""
        hidden = self.read(part)
        return rms_norm(hidden.view(-1, hidden.shape[-1]), block.after.norm, self.config.rms_norm_eps)

    def activate(self, block: Block, x: torch.Tensor) -> torch.Tensor:
        """From the input of gate and up to that of down, [T, F]."""
        gate, up = linear(x, block.after.gate_up).chunk(2, -1)
        return F.silu(gate) * up

    def add_activated(self, block: Block, part: slice, activated: torch.Tensor) -> None:
        """Add down's output: the hidden states are through the block. `check` is due behind the last part."""
        hidden = self.read(part)
        out = hidden + linear(activated, block.after.down).view_as(hidden)
        self.unseen.append((part, out.isfinite().all(-1).all(-1)))
        self.hidden.write(part.start, out)

    def check(self, layer: int) -> None:
        """Raise QuantizeError if an output of this block is not finite. A GPU is waited for once, not for each part."""
        unseen, self.unseen = self.unseen, []
        if not unseen or bool(torch.cat([finite for _, finite in unseen]).all()):
            return
        part, finite = next((part, finite) for part, finite in unseen if not finite.all())
        raise QuantizeError(
            f"model.layers.{layer}: its output is not finite for calibration sample "
            f"{part.start + int((~finite).nonzero()[0])}; the weights overflow float32 or are damaged "
            "(halfbyte inspect --verify tells)"
        )

    def through(self, block: Block, layer: int, part: slice, observe: Observe | None = None) -> None:
        """Take some samples through a whole block, by the very operations of the single stages.

        observe: called with each linear's name and its input [T, K].
        """
        observe = observe or (lambda _, x: None)
        x = self.qkv_input(block, part)
        observe("qkv", x)
        attended = self.attend(block, layer, x, part)
        observe("o", attended)
        self.add_attended(block, part, attended)
        x = self.mlp_input(block, part)
        observe("gate_up", x)
        activated = self.activate(block, x)
        observe("down", activated)
        self.add_activated(block, part, activated)
