"""Random numbers that follow from a seed, a step and a token alone: no generator to carry along, no order to keep.

Counter-based: SplitMix64 (Steele, Lea, Flood 2014), begun at a scrambled seed and moved on by the step, and once more
by the token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FACTORS = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def keys(seeds: Sequence[int], steps: Sequence[int]) -> np.ndarray:
    """Int64 [B], of any 64 bits: for each seed (0 to 2**64 - 1) its number at that step."""
    state = _scramble(np.array(seeds, dtype=np.uint64))
    return _scramble(state + GOLDEN * np.array(steps, dtype=np.uint64)).view(np.int64)


def uniform(key: torch.Tensor) -> torch.Tensor:
    """Float64 of the same shape, in [0, 1)."""
    return _shifted(key, 11).double().mul_(2.0**-53)


def exponential(key: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Float64 [B, n], over 0 and 1 on average: for each key [B, 1] the tokens' [B, n] own numbers."""
    x = (tokens + 1) * _signed(int(GOLDEN)) + key
    for shift, factor in zip((30, 27), FACTORS, strict=True):
        x = (x ^ _shifted(x, shift)) * _signed(factor)
    return _shifted(x ^ _shifted(x, 31), 11).double().add_(0.5).mul_(2.0**-53).log_().neg_()


def _shifted(x: torch.Tensor, by: int) -> torch.Tensor:
    """To the right, zeros behind: torch's own shift copies the sign."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def _signed(x: int) -> int:
    """The int64 of the same bits."""
    return x - 2**64 if x >= 2**63 else x


def _scramble(x: np.ndarray) -> np.ndarray:
    """SplitMix64's output function; products wrap around."""
    x = x + GOLDEN
    for shift, factor in zip((30, 27), FACTORS, strict=True):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    scrambled: np.ndarray = x ^ (x >> np.uint64(31))
    return scrambled
