"""Super-blocks of 256 weights whose sub-blocks' scales are quantized too: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K.

    Q2_K         16 sub-blocks   x = d * s * q - e * m   q in 0..3           s, m in 0..15
    Q4_K, Q5_K    8 sub-blocks   x = d * s * q - e * m   q in 0..15, 0..31   s, m in 0..63
    Q3_K         16 sub-blocks   x = d * s * q           q in -4..3          s in -32..31
    Q6_K         16 sub-blocks   x = d * s * q           q in -32..31        s in -128..127

d and e are float16. Every sub-block is fitted by itself first; then d (and e), the integers s (and m) and the levels
are improved in turn, each choice by the squared error of the block as it will be read back.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import torch

from halfbyte.checkpoint.ggml.levels import LINE, fit_affine, fit_symmetric, reciprocal, squared, to_levels, weighted
from halfbyte.checkpoint.ggml.packing import (
    bit_planes,
    half_bytes,
    nibble_pairs,
    quarters,
    six_bit_pairs,
    six_bit_scales,
)
from halfbyte.checkpoint.ggml.small_blocks import rounded

if TYPE_CHECKING:
    from torch import Tensor

CUTS = {
    2: tuple(product((0, 0.2, 0.4), (-1.0, -0.5, 0, 0.3))),
    4: ((0, -0.3), (0, 0), (0.4, 0), (0, 0.3), (0.4, 0.4), (0.8, 0.8), *LINE),
    5: ((0, -0.3), (0, 0), (0.4, 0), (0, 0.3), (0.4, 0.4), (0.8, 0.8), *LINE),
}
SIGNED_STEPS = {3: (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5), 6: (-0.5, 0.0, 0.5)}
# Where channels differ in importance, cutting off a large weight that hardly counts can pay.
WEIGHTED_CUTS = {
    2: (*product((0, 0.2, 0.5, 0.8), (-0.7, -0.4, -0.1, 0.2, 0.5)), *LINE),
    4: (*product((-0.3, 0.2, 0.7, 1.5, 2.5), (-0.3, 0.2, 0.7, 1.5, 2.5)), *LINE),
    5: (*product((-0.3, 0.2, 0.7, 2.0, 4.0), (-0.3, 0.2, 0.7, 2.0, 4.0)), *LINE),
}
WEIGHTED_SIGNED_STEPS = {
    3: (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5),
    6: (-1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0),
}
ROUNDS = 2
AROUND = ((-1, 0), (1, 0), (0, -1), (0, 1), (1, 1), (-1, -1), (1, -1), (-1, 1))


class Shifted(NamedTuple):
    """x = d * s * q - e * m: d, e [B]; s, m [S, B], whole numbers kept as floats."""

    d: Tensor
    e: Tensor
    s: Tensor
    m: Tensor

    def levels(self, x: Tensor, top: int) -> Tensor:
        """The nearest levels 0..top."""
        return to_levels(x, reciprocal(self.d * self.s), -(self.e * self.m), 0, top)

    def error(self, x: Tensor, w: Tensor | None, top: int) -> Tensor:
        """Of each sub-block, [S, B]."""
        q = self.levels(x, top)
        return squared(w, q.mul_((self.d * self.s)[:, None]).sub_((self.e * self.m)[:, None]).sub_(x))


def encode_shifted(x: Tensor, w: Tensor | None, bits: int) -> Tensor:
    """Bytes [B, n] of Q2_K, Q4_K or Q5_K blocks, for x [16, 16, B] or [8, 32, B]."""
    top, most = (1 << bits) - 1, 15 if bits == 2 else 63
    block = search_shifted(x, w, top, most, (CUTS if w is None else WEIGHTED_CUTS)[bits])
    q = block.levels(x, top).to(torch.uint8).view(256, -1)
    s, m = block.s.to(torch.uint8), block.m.to(torch.uint8)
    tail = [half_bytes(block.d), half_bytes(block.e)]
    if bits == 2:
        return torch.cat([(s | (m << 4)).T, quarters(q), *tail], 1)
    high = [bit_planes(q >> 4)] if bits == 5 else []
    return torch.cat([*tail, six_bit_pairs(s, m), *high, nibble_pairs(q)], 1)


def search_shifted(x: Tensor, w: Tensor | None, top: int, most: int, cuts: tuple[tuple[float, float], ...]) -> Shifted:
    """The best block found."""
    fit = fit_affine(x, w, top, cuts, from_zero=True)
    d, e = rounded(fit.scale.amax(0) / most), rounded(-fit.offset.amin(0) / most)
    s = (fit.scale * reciprocal(d)).round_().clamp_(0, most)
    m = (-fit.offset * reciprocal(e)).round_().clamp_(0, most)
    best = Shifted(d, e, s, m)
    error = best.error(x, w, top)
    for _ in range(ROUNDS if w is None else ROUNDS + 1):
        best, error = _step_integers(x, w, best, error, top, most)
        best, error = _refit_pair(x, w, best, error, top)
    return best


def _step_integers(
    x: Tensor, w: Tensor | None, start: Shifted, error: Tensor, top: int, most: int
) -> tuple[Shifted, Tensor]:
    s, m = start.s, start.m
    for ds, dm in AROUND:
        trial = Shifted(start.d, start.e, (start.s + ds).clamp_(0, most), (start.m + dm).clamp_(0, most))
        found = trial.error(x, w, top)
        better = found < error
        s, m = torch.where(better, trial.s, s), torch.where(better, trial.m, m)
        error = torch.minimum(found, error)
    return Shifted(start.d, start.e, s, m), error


def _refit_pair(x: Tensor, w: Tensor | None, start: Shifted, error: Tensor, top: int) -> tuple[Shifted, Tensor]:
    """d and e by least squares to the levels; kept for those blocks that gain by it once rounded."""
    a = start.levels(x, top).mul_(start.s[:, None])
    wa = weighted(w, a)
    aa, ab, ax = (wa * a).sum((0, 1)), (wa.sum(1) * start.m).sum(0), (wa * x).sum((0, 1))
    count = x.shape[1] if w is None else w.sum(1)
    bb, bx = (count * start.m * start.m).sum(0), (weighted(w, x).sum(1) * start.m).sum(0)
    inverse = reciprocal(aa * bb - ab * ab)
    d = torch.where(inverse > 0, (ax * bb - ab * bx) * inverse, ax * reciprocal(aa))
    e = torch.where(inverse > 0, (ab * ax - aa * bx) * inverse, start.e)
    trial = Shifted(rounded(d.clamp_(min=0)), rounded(e.clamp(min=0)), start.s, start.m)
    found = trial.error(x, w, top)
    better = found.sum(0) < error.sum(0)
    kept = Shifted(torch.where(better, trial.d, start.d), torch.where(better, trial.e, start.e), start.s, start.m)
    return kept, torch.where(better, found, error)


def encode_signed(x: Tensor, w: Tensor | None, bits: int) -> Tensor:
    """Bytes [B, n] of Q3_K or Q6_K blocks, for x [16, 16, B]."""
    levels = 1 << (bits - 1)
    steps = (SIGNED_STEPS if w is None else WEIGHTED_SIGNED_STEPS)[bits]
    d, s = search_signed(x, w, levels, 32 if bits == 3 else 128, steps)
    q = (to_levels(x, reciprocal(d * s), None, -levels, levels - 1) + levels).to(torch.uint8).view(256, -1)
    if bits == 3:
        return torch.cat([bit_planes(q >> 2), quarters(q), six_bit_scales((s + 32).to(torch.uint8)), half_bytes(d)], 1)
    low = (q & 15).view(2, 2, 64, -1)
    low_bytes = (low[:, 0] | (low[:, 1] << 4)).view(128, -1).T
    scales = s.to(torch.int8).T.contiguous().view(torch.uint8)
    return torch.cat([low_bytes, quarters(q >> 4), scales, half_bytes(d)], 1)


def search_signed(
    x: Tensor, w: Tensor | None, levels: int, most: int, steps: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """d [B] and s [16, B] of the best block found."""
    scales = fit_symmetric(x, w, levels, steps)
    largest = scales.gather(0, scales.abs().argmax(0, keepdim=True))[0]
    d = rounded(largest / -most)
    s = (scales * reciprocal(d)).round_().clamp_(-most, most - 1)
    error = _signed_error(x, w, d, s, levels)
    for _ in range(ROUNDS):
        start = s
        for step in (-1, 1):
            trial = (start + step).clamp_(-most, most - 1)
            found = _signed_error(x, w, d, trial, levels)
            s, error = torch.where(found < error, trial, s), torch.minimum(found, error)
        a = to_levels(x, reciprocal(d * s), None, -levels, levels - 1).mul_(s[:, None])
        wa = weighted(w, a)
        refit = rounded((wa * x).sum((0, 1)) * reciprocal((wa * a).sum((0, 1))))
        found = _signed_error(x, w, refit, s, levels)
        better = found.sum(0) < error.sum(0)
        d, error = torch.where(better, refit, d), torch.where(better, found, error)
    return d, s


def _signed_error(x: Tensor, w: Tensor | None, d: Tensor, s: Tensor, levels: int) -> Tensor:
    scale = d * s
    q = to_levels(x, reciprocal(scale), None, -levels, levels - 1)
    return squared(w, q.mul_(scale[:, None]).sub_(x))
