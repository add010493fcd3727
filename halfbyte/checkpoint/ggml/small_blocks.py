"""Blocks of 32 weights with a scale of their own: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.

    Q4_0, Q5_0, Q8_0   x = d * q            q in -8..7, -16..15, -127..127
    Q4_1, Q5_1         x = d * q + m        q in 0..15, 0..31

d and m are float16. ggml takes d from the largest weight alone; here it is fitted by least squares to the levels of
several trials, rounded to float16, and the trial that is best after that rounding is kept.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import torch

from halfbyte.checkpoint.ggml.levels import (
    LINE,
    Affine,
    fit_affine,
    fit_symmetric,
    reciprocal,
    squared,
    to_levels,
    weighted,
)
from halfbyte.checkpoint.ggml.packing import half_bytes, high_bits, nibble_halves

if TYPE_CHECKING:
    from torch import Tensor

LEAST_HALF = 2.0**-24
STEPS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75)
CUTS = (*product((-0.3, 0.0, 0.3, 0.6), (-0.3, 0.0, 0.3, 0.6)), *LINE)
# Where channels differ in importance, cutting off a large weight that hardly counts can pay.
WEIGHTED_STEPS = {4: (*STEPS, 1.0, 1.5, 2.0, 3.0, 4.0), 5: (*STEPS, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)}
WEIGHTED_CUTS = {
    4: (*product((-0.3, 0.0, 0.3, 0.7, 1.5, 2.5), (-0.3, 0.0, 0.3, 0.7, 1.5, 2.5)), *LINE),
    5: (*product((-0.3, 0.0, 0.4, 1.0, 2.0, 4.0), (-0.3, 0.0, 0.4, 1.0, 2.0, 4.0)), *LINE),
}


def encode_symmetric(x: Tensor, w: Tensor | None, bits: int) -> Tensor:
    """Bytes [B, n] of Q4_0 or Q5_0 blocks, for x [1, 32, B]."""
    levels = 1 << (bits - 1)
    largest = x.gather(1, x.abs().argmax(1, keepdim=True))[:, 0]
    trials = (fit_symmetric(x, w, levels, STEPS if w is None else WEIGHTED_STEPS[bits]), largest / -levels)
    d, q = best_of(x, w, trials, -levels, levels - 1)
    q = (q + levels).to(torch.uint8)[0]
    return torch.cat([half_bytes(d[0]), *([high_bits(q)] if bits == 5 else []), nibble_halves(q)], 1)


def encode_q8(x: Tensor, w: Tensor | None) -> Tensor:
    """Bytes [B, 34] of Q8_0 blocks."""
    largest = x.abs().amax(1)
    trials = tuple(largest / top for top in (127.0, 126.75, 127.25, 126.5, 127.45))
    d, q = best_of(x, w, trials, -127, 127)
    return torch.cat([half_bytes(d[0]), q[0].to(torch.int8).T.contiguous().view(torch.uint8)], 1)


def best_of(x: Tensor, w: Tensor | None, trials: tuple[Tensor, ...], low: int, high: int) -> tuple[Tensor, Tensor]:
    """The scale [1, B] among the trials, each rounded to float16 and fitted once more, with its levels."""
    best = error = None
    for trial in trials:
        scale = rounded(trial)
        for _ in range(2):
            q = to_levels(x, reciprocal(scale), None, low, high)
            found = squared(w, q * scale[:, None] - x)
            if best is None or error is None:
                best, error = scale, found
            else:
                best, error = torch.where(found < error, scale, best), torch.minimum(found, error)
            wq = q if w is None else q * w
            scale = rounded((wq * x).sum(1) * reciprocal((wq * q).sum(1)))
    assert best is not None
    return best, to_levels(x, reciprocal(best), None, low, high)


def encode_affine(x: Tensor, w: Tensor | None, bits: int) -> Tensor:
    """Bytes [B, n] of Q4_1 or Q5_1 blocks, for x [1, 32, B]."""
    top = (1 << bits) - 1
    fit = fit_affine(x, w, top, CUTS if w is None else WEIGHTED_CUTS[bits], from_zero=False)
    low, high = x.amin(1), x.amax(1)
    best, error = _polished(x, w, fit, top)
    plain = Affine(rounded((high - low) / top), half(low))  # as ggml takes it
    better = _affine_error(x, w, plain, top) < error
    d, m = (torch.where(better, p, b) for p, b in zip(plain, best, strict=True))
    q = to_levels(x, reciprocal(d), m, 0, top).to(torch.uint8)[0]
    return torch.cat([half_bytes(d[0]), half_bytes(m[0]), *([high_bits(q)] if bits == 5 else []), nibble_halves(q)], 1)


def _polished(x: Tensor, w: Tensor | None, fit: Affine, top: int) -> tuple[Affine, Tensor]:
    """A fit rounded to float16; then each of its two numbers is fitted to what the rounding of the other left."""
    best = Affine(rounded(fit.scale), half(fit.offset))
    error = _affine_error(x, w, best, top)
    for turn in range(4):
        d, m = best
        q = to_levels(x, reciprocal(d), m, 0, top)
        wq = weighted(w, q)
        if turn % 2 == 0:
            count = torch.full_like(d, x.shape[1]) if w is None else w.sum(1)
            m = half(weighted(w, x - q * d[:, None]).sum(1) * reciprocal(count))
        else:
            d = rounded((wq * (x - m[:, None])).sum(1) * reciprocal((wq * q).sum(1)))
        trial = Affine(d, m)
        found = _affine_error(x, w, trial, top)
        better = found < error
        best = Affine(*(torch.where(better, t, b) for t, b in zip(trial, best, strict=True)))
        error = torch.minimum(found, error)
    return best, error


def _affine_error(x: Tensor, w: Tensor | None, fit: Affine, top: int) -> Tensor:
    q = to_levels(x, reciprocal(fit.scale), fit.offset, 0, top)
    return squared(w, q.mul_(fit.scale[:, None]).add_(fit.offset[:, None]).sub_(x))


def half(x: Tensor) -> Tensor:
    """As float16 holds it."""
    return x.to(torch.float16).float()


def rounded(scale: Tensor) -> Tensor:
    """A scale as float16 holds it; what would become 0 becomes its least number, for coarse steps still beat none."""
    near = half(scale)
    return torch.where(near == 0, scale.sign() * LEAST_HALF, near)
