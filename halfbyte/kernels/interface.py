"""What a network asks of its kernels.

Between two attentions everything acts on each token alone. That stretch is a *span*: the second half of one block and
the first projection of the next. Handing it over whole lets a kernel set fuse as much of it as its machine likes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch

from halfbyte.checkpoint.int4 import Int4Weight


@dataclass(slots=True)
class LinearWeight:
    """y = x @ weight.T + bias; weight [N, K] is float or 4-bit, bias [N] may be absent."""

    weight: torch.Tensor | Int4Weight
    bias: torch.Tensor | None = None


@dataclass(slots=True)
class AfterAttention:
    """The second half of a block: output projection, residual, norm, gated MLP, residual."""

    o: LinearWeight  # [D, H * d]
    norm: torch.Tensor  # [D]
    gate_up: LinearWeight  # [2 * F, D]: gate rows, then up rows
    down: LinearWeight  # [D, F]


@dataclass(slots=True)
class Span:
    """From one attention to the next. The first span has no `after`, the last one no `qkv`."""

    eps: float
    after: AfterAttention | None
    norm: torch.Tensor  # [D]: the next block's input norm, or the network's final one
    qkv: LinearWeight | None  # [(H + 2 * Hkv) * d, D]


# attended [T, H * d] (None for the first span), residual [T, D] -> qkv or the normed hidden state [T, N], residual
SpanKernel = Callable[[torch.Tensor | None, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
LinearKernel = Callable[[torch.Tensor], torch.Tensor]  # [T, K] -> [T, N]


class Kernels(Protocol):
    """One machine's way of computing. Preparing (repacking weights) is done once; what is returned is then called."""

    def span(self, span: Span) -> SpanKernel:
        """Prepare a span. What it returns may be overwritten by the next call of the same span."""

    def linear(self, weight: LinearWeight) -> LinearKernel:
        """Prepare one linear by itself. What it returns may be overwritten by its next call."""

    def head(self, weight: torch.Tensor) -> LinearKernel:
        """Prepare the output embedding [V, D]; its products are float32 logits."""

    def threads(self, rows: int) -> AbstractContextManager[None]:
        """Held during a pass of that many rows: how many threads torch should use beside the kernels."""
