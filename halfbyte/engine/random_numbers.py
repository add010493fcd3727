"""Random numbers that belong to a place: the same for a seed and a step, in any batch and at any time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniform(seeds: Sequence[int], steps: Sequence[int]) -> np.ndarray:
    """Float64 [B] in [0, 1): for each seed (0 to 2**64 - 1) its number at that step.

    A counter-based generator: SplitMix64 (Steele, Lea, Flood 2014), begun at a scrambled seed and moved on by the step.
    """
    state = _scramble(np.array(seeds, dtype=np.uint64))
    bits = _scramble(state + GOLDEN * np.array(steps, dtype=np.uint64))
    numbers: np.ndarray = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers


def _scramble(x: np.ndarray) -> np.ndarray:
    """SplitMix64's output function; products wrap around."""
    x = x + GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scrambled: np.ndarray = x ^ (x >> np.uint64(31))
    return scrambled
