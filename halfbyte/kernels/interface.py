"""What a network asks of its kernels.

Between two attentions everything acts on each token alone. That stretch is a *span*: the second half of one block and
the first projection of the next. Handing it over whole lets a kernel set fuse as much of it as its machine likes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch

from halfbyte.checkpoint.int4 import Int4Weight
from halfbyte.kernels.cache_kind import CacheKind


@dataclass(slots=True)
class LinearWeight:
    """y = x[:, order] @ weight.T + bias; weight [N, K] is float or 4-bit, order [K] and bias [N] may be absent.

    An order may name an input more than once, and names each at least once: see checkpoint.kernel_form.
    An order is given only to kernels with `takes_order = True`, and only beside a 4-bit weight.
    """

    weight: torch.Tensor | Int4Weight
    bias: torch.Tensor | None = None
    order: torch.Tensor | None = None


# Makes a float32 [T, D] the sum of what all processes that share the network have there, in each of them, in place
Reduce = Callable[[torch.Tensor], None]


@dataclass(slots=True)
class AfterAttention:
    """The second half of a block: output projection, residual, norm, gated MLP, residual.

    With `reduce` this process has a part of the block: some heads, some columns of the MLP. What `o` and `down` give is
    then a part of the sum, and is reduced before it goes into the residual stream.
    """

    o: LinearWeight  # [D, H * d]
    norm: torch.Tensor  # [D]
    gate_up: LinearWeight  # [2 * F, D]: gate rows, then up rows
    down: LinearWeight  # [D, F]
    reduce: Reduce | None = None


@dataclass(slots=True)
class Span:
    """From one attention to the next. The first span has no `after`, the last one no `qkv`."""

    eps: float
    after: AfterAttention | None
    norm: torch.Tensor  # [D]: the next block's input norm, or the network's final one
    qkv: LinearWeight | None  # [(H + 2 * Hkv) * d, D]


@dataclass(slots=True)
class PagedBatch:
    """Where the T new tokens of a pass lie, and what each may see: S sequences, one behind the other.

    Sequence s owns rows query_start[s] to query_start[s + 1]; they are its newest tokens, so that the last of them is
    its token context_lens[s] - 1. Token i of it lies in block block_tables[s, i // block_size], at i % block_size.
    What a table holds behind the sequence's last block, and a cache outside of its tokens, may be anything, NaN
    included: it must not be read, not even to be multiplied by 0.
    """

    slot_mapping: torch.Tensor  # int64 [T]: block * block_size + place, where each new token's key and value go
    block_tables: torch.Tensor  # int32 [S, most blocks of a sequence]
    query_start: torch.Tensor  # int32 [S + 1]
    context_lens: torch.Tensor  # int32 [S], counting the new tokens
    max_query: int  # the most new tokens of a sequence, and
    max_context: int  # the longest context: known without asking the device
    singles: int = 0  # where max_query > 1: so many sequences at the start have one new token each, and
    singles_context: int = 0  # the longest context of these
    fresh: int = 0  # so many sequences at the end have no other tokens than their new ones: from row
    fresh_start: int = 0  # on, and the most that one of them has are
    fresh_longest: int = 0


@dataclass(slots=True)
class PagedCaches:
    """All that the attentions of one pass need beside q, k and v."""

    caches: list[tuple[torch.Tensor, torch.Tensor]]  # of each layer: keys, values, as `Kernels.kv_cache` made them
    batch: PagedBatch
    scale: float
    windows: Sequence[int | None]  # of each layer


# (tokens [T], positions [T], lengths [T] or None: see Rope) -> embedded float32 [T, D], cos and sin as Rope gives them
Begin = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


@dataclass(slots=True)
class PassShape:
    """What lies between the spans of a network."""

    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    qk_norms: Sequence[tuple[torch.Tensor, torch.Tensor] | None]  # of each layer: weights [d] of q's and k's norms
    begin: Begin  # what lies before the first span
    # The same in parts, for kernels that look tokens up by themselves: the embedding [V, D], and a function that gives
    # cos and signed sin of the first so many positions, or more, each [positions, 1, d]; None: they cannot be listed.
    embedding: torch.Tensor | None = None
    angles: Callable[[int], tuple[torch.Tensor, torch.Tensor] | None] = lambda _: None


# Adds what adapters do to y [T, N], the output of the linear `name` ("qkv", "o", "gate_up" or "down") for x [T, K]
Adapt = Callable[[str, torch.Tensor, torch.Tensor], None]
LinearKernel = Callable[[torch.Tensor], torch.Tensor]  # [T, K] -> [T, N]


class SpanKernel(Protocol):
    """A prepared span."""

    def __call__(
        self, attended: torch.Tensor | None, residual: torch.Tensor, adapt: Adapt | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attended [T, H * d] (None for the first span), residual [T, D] -> [T, N] and the new residual.

        The first result is q, k and v, or after the last span the normed hidden state. With `adapt`, each linear's
        output goes through it at once, before anything else is done with it.
        """


class PassKernel(Protocol):
    """All spans of a network and the attentions between them as one call: a step of decoding is a hundred of them."""

    def __call__(
        self, embedded: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, past: PagedCaches
    ) -> torch.Tensor | None:
        """Embedded [T, D]; cos, sin [T, 1, d] as Rope gives them -> [T, D] behind the final norm.

        What is embedded may be overwritten.
        Rows come out as from the spans one by one. None: it cannot take such caches, take the spans.
        """

    def decode(
        self, tokens: torch.Tensor, positions: torch.Tensor, lengths: torch.Tensor | None, past: PagedCaches
    ) -> torch.Tensor | None:
        """The same, `PassShape.begin` included, where each sequence has one new token. None: go the other way."""


class Kernels(Protocol):
    """One machine's way of computing. Preparing (repacking weights) is done once; what is returned is then called.

    A row's results must not depend, not in one bit, on how many rows the call has, nor on which row it is: that is
    what makes an answer the same alone and in any batch.
    """

    def span(self, span: Span) -> SpanKernel:
        """Prepare a span. What it returns may be overwritten by the next call of the same span."""

    def whole_pass(self, shape: PassShape, spans: Sequence[SpanKernel]) -> PassKernel | None:
        """A pass through all these spans, which this set prepared, as one call; None where there is nothing to gain."""

    def attention(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        batch: PagedBatch,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """Store k and v, then attend over all that each sequence has. Returns [T, H * d], which is not overwritten.

        q: [T, H, d]; k, v: [T, Hkv, d], any strides. k_cache, v_cache: [blocks, Hkv, block size, d], as `kv_cache` made
        them. See reference.paged_attention.
        """

    def kv_cache(self, blocks: int, heads: int, block_size: int, width: int, kind: CacheKind = "auto") -> torch.Tensor:
        """One layer's keys, or values: [blocks, heads, block size, width] in the dtype and on the device it wants.

        Raises KernelError if it has no such kind.
        """

    def linear(self, weight: LinearWeight) -> LinearKernel:
        """Prepare one linear by itself. What it returns may be overwritten by its next call."""

    def head(self, weight: torch.Tensor) -> LinearKernel:
        """Prepare the output embedding [V, D]; its products are float32 logits, which are not overwritten."""

    def threads(self, rows: int) -> AbstractContextManager[None]:
        """Held during a pass of that many rows: how many threads torch should use beside the kernels."""
