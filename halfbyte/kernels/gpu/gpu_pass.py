"""A whole pass on a GPU. Passes in which every sequence has one new token are recorded once and played back."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from halfbyte.kernels.gpu.attention import attend
from halfbyte.kernels.gpu.beginning import Beginning
from halfbyte.kernels.gpu.fresh import Fresh
from halfbyte.kernels.gpu.mode import Mode
from halfbyte.kernels.gpu.paired_step import PairedStep
from halfbyte.kernels.gpu.step_network import StepNetwork
from halfbyte.kernels.gpu.whole_step import WholeStep
from halfbyte.kernels.interface import PagedBatch, PagedCaches
from halfbyte.kernels.triton.paged_attention import PIECE, pieces_of
from halfbyte.kernels.triton.rope_store import rope_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from halfbyte.kernels.gpu.gpu_span import GpuSpan
    from halfbyte.kernels.interface import PassShape

SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256)  # sequences of a recorded pass
# whether passes with sums over several GPUs are recorded too, see docs/gpu.md
RECORDS_SHARED = os.environ.get("HALFBYTE_SHARED_GRAPHS") == "1"


class GpuPass:
    """See interface.PassKernel."""

    def __init__(
        self, shape: PassShape, spans: Sequence[GpuSpan], device: torch.device, mode: Mode | None = None
    ) -> None:
        """mode: None, the device's."""
        self.shape, self.spans, self.device = shape, list(spans), device
        self.mode = Mode.of(device) if mode is None else mode
        self.norms = [n and tuple(x.float().to(device) for x in n) for n in shape.qk_norms]
        self.recorded: dict[tuple[int, int], _Recorded] = {}
        self.pool: tuple[int, int] | None = None  # memory that recordings share: one is played at a time
        self.caches: object = None
        shared = any(span.reduce is not None for span in spans)  # one kernel cannot wait for other GPUs
        self.records = device.type == "cuda" and (not shared or RECORDS_SHARED)  # in the interpreter nothing is
        one_kernel = bool(spans) and not shared and not self.mode.portable and not self.mode.fixed
        self.begin = Beginning(shape, device)
        self.steps: list[WholeStep | PairedStep] = []
        if one_kernel:
            network = StepNetwork(shape, self.spans, self.norms, device)
            self.steps = [WholeStep(network), PairedStep(network)]

    def __call__(
        self, embedded: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, past: PagedCaches
    ) -> torch.Tensor | None:
        """See interface.PassKernel."""
        return self.run(embedded.float(), cos, sin, past, pieces_of(past.batch))

    def decode(
        self, tokens: torch.Tensor, positions: torch.Tensor, lengths: torch.Tensor | None, past: PagedCaches
    ) -> torch.Tensor | None:
        """See interface.PassKernel."""
        T = tokens.shape[0]
        if SIZES[-1] < T or not self.records:
            return None
        if self.caches is not past.caches:  # other memory
            self.caches, self.recorded = past.caches, {}
        key = next(size for size in SIZES if size >= T), pieces_of(past.batch)
        if key not in self.recorded:
            self.recorded[key] = _Recorded(self, *key, past, with_lengths=lengths is not None)
        return self.recorded[key].play(tokens, positions, lengths, past.batch)

    def decoded(
        self, embedded: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, past: PagedCaches, pieces: int
    ) -> torch.Tensor:
        """Launch everything for one new token of each sequence: for few sequences one kernel, where that can be."""
        for step in self.steps:
            if step.takes(embedded.shape[0], past):
                return step(embedded, cos, sin, past)
        return self.run(embedded, cos, sin, past, pieces)

    def run(
        self, embedded: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, past: PagedCaches, pieces: int
    ) -> torch.Tensor:
        """Launch everything."""
        s, batch = self.shape, past.batch
        T = embedded.shape[0]
        residual = embedded.clone()
        cos, sin = cos.contiguous(), sin.contiguous()
        q = torch.empty(T, s.heads, s.head_dim, dtype=self.mode.dtype, device=self.device)
        attended = torch.empty_like(q)
        by_pages = self.mode.fixed or self.mode.portable
        fresh = None if by_pages else Fresh.of(batch, s.heads, s.kv_heads, s.head_dim, self.mode.dtype)
        x = self.spans[0].run(None, residual)
        for layer, span in enumerate(self.spans[1:]):
            keys, values = past.caches[layer]
            norms = self.norms[layer]
            tiled = span.is_wide(T) and s.head_dim % 32 == 0
            rope_store(
                x, cos, sin, q, keys, values, batch.slot_mapping, norms, s.eps,  # type: ignore[arg-type]
                fixed=self.mode.fixed, fresh=fresh.place() if fresh else None, tiled=tiled,
            )  # fmt: skip
            window = past.windows[layer]
            seen = attend(
                q, keys, values, batch, past.scale, window, attended, pieces, tiled=tiled, mode=self.mode, fresh=fresh
            )
            x = span.run(seen.flatten(1), residual, tiled=tiled)
        return x


class _Recorded:
    """A CUDA graph of a pass of so many sequences, whose contexts are cut into at most so many pieces."""

    def __init__(self, whole: GpuPass, size: int, pieces: int, past: PagedCaches, *, with_lengths: bool) -> None:
        device, begin, limit = whole.device, whole.begin, pieces * PIECE
        block = past.caches[0][0].shape[2]
        self.tokens, self.positions = torch.zeros(2, size, dtype=torch.int64, device=device)
        self.lengths = torch.ones(size, dtype=torch.int64, device=device) if with_lengths else None
        batch = PagedBatch(
            slot_mapping=torch.full((size,), -1, dtype=torch.int64, device=device),
            block_tables=torch.zeros(size, pieces * PIECE // block, dtype=torch.int32, device=device),
            query_start=torch.arange(size + 1, dtype=torch.int32, device=device),
            context_lens=torch.zeros(size, dtype=torch.int32, device=device),
            max_query=1,
            max_context=pieces * PIECE,
        )
        self.batch = batch
        own = PagedCaches(past.caches, batch, past.scale, past.windows)
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):  # kernels are compiled, and libraries find their ways, before the recording
            whole.decoded(*begin(self.tokens, self.positions, self.lengths, limit), own, pieces)
        torch.cuda.current_stream(device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=whole.pool):  # type: ignore[arg-type]
            self.hidden = whole.decoded(*begin(self.tokens, self.positions, self.lengths, limit), own, pieces)
        whole.pool = whole.pool or self.graph.pool()

    def play(
        self, tokens: torch.Tensor, positions: torch.Tensor, lengths: torch.Tensor | None, batch: PagedBatch
    ) -> torch.Tensor:
        """The hidden states, which are not overwritten."""
        T = tokens.shape[0]
        own = self.batch
        self.tokens[:T].copy_(tokens)
        self.positions[:T].copy_(positions)
        if self.lengths is not None and lengths is not None:
            self.lengths[:T].copy_(lengths)
        own.slot_mapping[T:].fill_(-1)
        own.slot_mapping[:T].copy_(batch.slot_mapping)
        own.context_lens[T:].zero_()
        own.context_lens[:T].copy_(batch.context_lens)
        columns = min(batch.block_tables.shape[1], own.block_tables.shape[1])
        own.block_tables[:T, :columns].copy_(batch.block_tables[:, :columns])
        self.graph.replay()
        return self.hidden[:T].clone()
