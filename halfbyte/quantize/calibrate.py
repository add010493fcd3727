"""Runs the float model block by block and gathers, for each linear, the statistics of its input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from halfbyte.errors import QuantizeError
from halfbyte.kernels.reference import Observe, after_attention, linear, rms_norm
from halfbyte.models.attend import WholeSequences
from halfbyte.models.network import split_heads
from halfbyte.quantize.statistics import InputStatistics

if TYPE_CHECKING:
    from halfbyte.checkpoint.config import ModelConfig
    from halfbyte.models.network import Block
    from halfbyte.models.rope import Rope

MICRO_BATCH_TOKENS = 4096


class Calibrator:
    """The hidden states of all samples as they stand before the next block, float32 [samples, seq_len, D]."""

    def __init__(self, config: ModelConfig, rope: Rope, hidden: torch.Tensor) -> None:
        self.config = config
        self.hidden = hidden
        self.rope = rope

    def through(self, block: Block, layer: int) -> dict[str, InputStatistics]:
        """Take the samples through a block; returns the statistics of its linears' inputs.

        Raises QuantizeError, naming layer and sample, if an activation is not finite.
        """
        stats = {
            name: InputStatistics.empty(w.weight.shape[1], self.hidden.device)  # type: ignore[union-attr]
            for name, w in block.linears().items()
        }
        samples, length, _ = self.hidden.shape
        at_once = max(1, MICRO_BATCH_TOKENS // length)
        for begin in range(0, samples, at_once):
            batch = self.hidden[begin : begin + at_once]
            out = self._forward(block, layer, batch, lambda name, x: stats[name].add(x))
            self._check(out, layer, begin)
            batch.copy_(out)
        for s in stats.values():
            s.finish()
        return stats

    def _forward(self, block: Block, layer: int, batch: torch.Tensor, observe: Observe) -> torch.Tensor:
        samples, length, width = batch.shape
        cos, sin = self.rope(torch.arange(length, device=batch.device).repeat(samples))
        norms = None if block.q_norm is None or block.k_norm is None else (block.q_norm, block.k_norm)
        residual = batch.reshape(-1, width)
        x = rms_norm(residual, block.input_norm, self.config.rms_norm_eps)
        observe("qkv", x)
        q, k, v = split_heads(linear(x, block.qkv), self.config, norms, cos, sin)
        attended = WholeSequences(self.config, samples)(layer, q, k, v)
        return after_attention(block.after, attended, residual, self.config.rms_norm_eps, observe).view_as(batch)

    def _check(self, out: torch.Tensor, layer: int, begin: int) -> None:
        bad = ~out.isfinite().all(-1).all(-1)
        if bad.any():
            raise QuantizeError(
                f"model.layers.{layer}: its output is not finite for calibration sample "
                f"{begin + int(bad.nonzero()[0])}; the weights overflow float32 or are damaged "
                "(halfbyte inspect --verify tells)"
            )
