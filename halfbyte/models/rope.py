"""Rotary position embedding (RoFormer, arXiv:2104.09864) and the four ways to stretch it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from halfbyte.checkpoint.config import ModelConfig, RopeConfig


KEPT_POSITIONS = 16384  # a table of them has 16 MB where a head has 128 numbers


class Rope:
    """Gives the cosines and sines of a pass; one instance serves every layer."""

    def __init__(self, config: ModelConfig) -> None:
        self.rope = config.rope
        self.dim = config.head_dim
        self.max_position = config.max_position_embeddings
        self.inv_freq = inverse_frequencies(self.rope, self.dim, self.max_position)
        self.scale = attention_scale(self.rope, self.max_position)
        self._table: tuple[torch.Tensor, torch.Tensor] | None = None  # of the first positions, on the CPU

    def __call__(
        self, positions: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and signed sin for `rotate`, each [T, 1, d] float32, for positions [T].

        lengths [T] is the length, counting this pass, of the sequence that each token belongs to; only dynamic scaling
        asks for it. Without it the tokens are taken to be of one sequence, or of several that are equally long.
        """
        if positions.device.type == "cpu":
            found = self._looked_up(positions)
            if found is not None:
                return found
        return self._computed(positions, lengths)

    def listed(self, positions: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """cos and signed sin of so many positions from 0 on, or of more, on the CPU; None if there are none to keep."""
        if positions > KEPT_POSITIONS or self.rope.rope_type == "dynamic":
            return None
        if self._table is None or positions > len(self._table[0]):
            size = min(KEPT_POSITIONS, max(1024, 2 * positions))
            with torch.inference_mode(False):  # what is made in inference mode cannot be used in training
                self._table = self._computed(torch.arange(size), None)
        return self._table

    def _looked_up(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """From a table that grows with the positions asked for; None if one of them is beyond what is kept."""
        last = max(positions.tolist(), default=0) if len(positions) <= 64 else int(positions.max())
        table = self.listed(last + 1)
        return None if table is None else (table[0].index_select(0, positions), table[1].index_select(0, positions))

    def _computed(self, positions: torch.Tensor, lengths: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        if self.rope.rope_type == "dynamic":
            inv_freq = self._dynamic(positions.max() + 1 if lengths is None else lengths)
        else:
            inv_freq = self.inv_freq = self.inv_freq.to(positions.device)  # moved once
        angles = (positions[:, None].float() * inv_freq)[:, None]
        cos, sin = angles.cos() * self.scale, angles.sin() * self.scale
        return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)

    def _dynamic(self, length: torch.Tensor) -> torch.Tensor:
        """NTK-aware scaling: the base grows with the sequence once it is longer than the model was trained for."""
        stretch = self.rope.factor * length.clamp(min=self.max_position) / self.max_position - (self.rope.factor - 1)
        base = self.rope.theta * stretch.double() ** (self.dim / (self.dim - 2))
        exponents = torch.arange(0, self.dim, 2, device=length.device).float() / self.dim
        return 1.0 / base.float()[..., None] ** exponents


def rotate(x: torch.Tensor, cos: torch.Tensor, signed_sin: torch.Tensor) -> torch.Tensor:
    """Rotate heads x [T, H, d]: coordinate i turns with coordinate i + d/2 (the Hugging Face layout).

    Three operations, because at one row of a small model each costs more than its arithmetic.
    """
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), signed_sin)


def inverse_frequencies(rope: RopeConfig, dim: int, max_position: int) -> torch.Tensor:
    """Radians per position for each pair of coordinates, [dim / 2]."""
    inv_freq = 1.0 / rope.theta ** (torch.arange(0, dim, 2).float() / dim)
    if rope.rope_type == "linear":
        return inv_freq / rope.factor
    if rope.rope_type == "llama3":
        return _llama3(inv_freq, rope, max_position)
    if rope.rope_type == "yarn":
        return _yarn(inv_freq, rope, dim, max_position)
    return inv_freq


def attention_scale(rope: RopeConfig, max_position: int) -> float:
    """What cos and sin are multiplied by: 1, except that YaRN sharpens attention (its equation 22)."""
    if rope.rope_type != "yarn":
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor

    def mscale(weight: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * weight * math.log(rope.factor) + 1.0

    if rope.mscale and rope.mscale_all_dim:
        return mscale(rope.mscale) / mscale(rope.mscale_all_dim)
    return mscale(1.0)


def _llama3(inv_freq: torch.Tensor, rope: RopeConfig, max_position: int) -> torch.Tensor:
    """Llama 3.1: slow frequencies are divided by `factor`, fast ones kept, those between blended."""
    context = rope.original_max_position_embeddings or max_position
    turns = context * inv_freq / (2 * math.pi)  # full turns within the original context
    keep = ((turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)).clamp(0, 1)
    return inv_freq * (keep + (1 - keep) / rope.factor)


def _yarn(inv_freq: torch.Tensor, rope: RopeConfig, dim: int, max_position: int) -> torch.Tensor:
    """YaRN (arXiv:2309.00071): interpolate coordinates that turn less than beta_slow, keep those over beta_fast."""
    context = rope.original_max_position_embeddings or max_position

    def coordinate(turns: float) -> float:
        return dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = coordinate(rope.beta_fast), coordinate(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    interpolate = ((torch.arange(dim // 2).float() - low) / (high - low)).clamp(0, 1)
    return inv_freq * (interpolate / rope.factor + (1 - interpolate))
