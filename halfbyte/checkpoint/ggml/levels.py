"""Least-squares scales for blocks of weights: what every block format's search is made of.

Blocks lie as [S, L, B]: B blocks of S sub-blocks of L weights each. B is last, so that sums over a sub-block run
along whole vectors. Weights w of the squared error have the same shape, or are None where all count alike.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

Tensor = torch.Tensor
POLISH = 3
# Cuts (see fit_affine) above alone, in steps: the one that meets a grid on which the weights lay once finds it again
LINE = tuple((0.0, above) for above in (-0.9, -0.7, -0.5, 0.15, 0.5, 0.9, 1.0))


class Affine(NamedTuple):
    """x ≈ scale * level + offset, each [S, B]."""

    scale: Tensor
    offset: Tensor


def reciprocal(x: Tensor) -> Tensor:
    """1 / x, and 0 where that would not be a number or not a finite one."""
    inverse = 1 / x
    return torch.where(inverse.isfinite(), inverse, torch.zeros_like(inverse))


def weighted(w: Tensor | None, x: Tensor) -> Tensor:
    """w * x."""
    return x if w is None else w * x


def squared(w: Tensor | None, difference: Tensor) -> Tensor:
    """The weighted squared error of each sub-block, [S, B]; `difference` is used up."""
    return (difference.square_() if w is None else difference.square_().mul_(w)).sum(1)


def to_levels(x: Tensor, inverse: Tensor, offset: Tensor | None, low: int, high: int) -> Tensor:
    """The nearest level of each weight in low..high, as floats; inverse and offset are [S, B]."""
    t = x * inverse[:, None] if offset is None else (x - offset[:, None]).mul_(inverse[:, None])
    return t.round_().clamp_(low, high)


def fit_symmetric(x: Tensor, w: Tensor | None, levels: int, steps: tuple[float, ...]) -> Tensor:
    """Scales [S, B], either sign, for levels -levels .. levels - 1.

    The largest weight is tried at `levels + step` on the long side, and one below that on the short side; each trial
    gives levels, and these the scale that serves them best.
    """
    index = x.abs().argmax(1, keepdim=True)
    largest = x.gather(1, index)[:, 0]
    inverse_largest = reciprocal(largest)
    best, gain = torch.zeros_like(largest), torch.zeros_like(largest)
    for step in steps:
        for target in (-(levels + step), levels - 1 + step):
            q = to_levels(x, inverse_largest * target, None, -levels, levels - 1)
            wq = weighted(w, q)
            sxq, sqq = (wq * x).sum(1), wq.mul_(q).sum(1)
            scale = sxq * reciprocal(sqq)
            better = sxq * scale > gain  # the squared error is sum(w x²) less this
            gain = torch.where(better, sxq * scale, gain)
            best = torch.where(better, scale, best)
    return best


def fit_affine(
    x: Tensor, w: Tensor | None, top: int, cuts: tuple[tuple[float, float], ...], *, from_zero: bool
) -> Affine:
    """Scales and offsets for levels 0..top. from_zero: no offset above 0 is allowed, as in super-blocks.

    Each trial cuts that many levels off below and above the range of the weights, and fits scale and offset to the
    levels that this gives; the best is fitted again, POLISH times, to the levels that it gives itself.
    """
    low, high = x.amin(1), x.amax(1)
    if from_zero:
        low = low.clamp(max=0)
    sums = _Sums.of(x, w)
    best = sums.constant(from_zero)
    error = sums.error(best, None)
    level = (high - low) / top
    inverse_level = reciprocal(level)
    for step in range(len(cuts) + POLISH):
        if step < len(cuts):
            below, above = cuts[step]
            inverse, offset = inverse_level * (top / (top - below - above)), low + level * below
            if from_zero:
                offset = offset.clamp(max=0)
        else:
            inverse, offset = reciprocal(best.scale), best.offset
        level_sums = LevelSums.of(x, w, to_levels(x, inverse, offset, 0, top))
        fit = sums.fit(level_sums, from_zero)
        found = sums.error(fit, level_sums)
        better = found < error
        error = torch.where(better, found, error)
        best = Affine(torch.where(better, fit.scale, best.scale), torch.where(better, fit.offset, best.offset))
    return best


class LevelSums(NamedTuple):
    """Weighted sums over a sub-block of levels q and weights x, [S, B] each."""

    q: Tensor
    qq: Tensor
    xq: Tensor

    @classmethod
    def of(cls, x: Tensor, w: Tensor | None, q: Tensor) -> LevelSums:
        """Of these levels."""
        wq = weighted(w, q)
        return cls(wq.sum(1), (wq * q).sum(1), (wq * x).sum(1))


class _Sums(NamedTuple):
    """What does not depend on the levels."""

    w: Tensor
    x: Tensor
    xx: Tensor

    @classmethod
    def of(cls, x: Tensor, w: Tensor | None) -> _Sums:
        wx = weighted(w, x)
        count = torch.full_like(x[:, 0], x.shape[1]) if w is None else w.sum(1)
        return cls(count, wx.sum(1), (wx * x).sum(1))

    def constant(self, from_zero: bool) -> Affine:
        """The best single value."""
        mean = self.x * reciprocal(self.w)
        return Affine(torch.zeros_like(mean), mean.clamp_(max=0) if from_zero else mean)

    def fit(self, s: LevelSums, from_zero: bool) -> Affine:
        product = self.w * s.qq
        determinant = product - s.q * s.q
        flat = determinant <= 1e-6 * product  # all levels alike, but for float32's noise
        inverse = torch.where(flat, torch.zeros_like(product), reciprocal(determinant))
        scale = (self.w * s.xq - self.x * s.q) * inverse
        offset = (s.qq * self.x - s.q * s.xq) * inverse
        if from_zero:
            above = (offset > 0) | flat
            scale = torch.where(above, s.xq * reciprocal(s.qq), scale)
            offset = offset.clamp(max=0)
        return Affine(scale.clamp(min=0), offset)

    def error(self, fit: Affine, s: LevelSums | None) -> Tensor:
        d, m = fit
        flat = self.xx - 2 * m * self.x + m * m * self.w
        return flat if s is None else flat + d * (2 * m * s.q + d * s.qq - 2 * s.xq)
