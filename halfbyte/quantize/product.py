"""The large products of a quantizer: float32 sums of what lies in 16 or 32 bits.

On a GPU the factors are rounded to 11 significant bits, as its TF32 does, but in float16, which is twice as fast: each
is first multiplied by a power of two that brings its greatest value near float16's, so that nothing overflows and what
is lost below is 2**-39 of the greatest.
"""

from __future__ import annotations

import weakref

import torch
import torch.nn.functional as F

TOP = 15  # of float16's exponents
LEAST = -100  # exponent of a greatest value: with one below, the power of two would not fit float32


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x [T, K] times weightᵀ, weight [N, K] of any float type: [T, N] in float32."""
    if not x.is_cuda:
        return F.linear(x, weight.float(), bias)
    (a, down), (b, also) = halved(x), _last.halved(weight)
    out = torch.mm(a, b.T, out_dtype=torch.float32).mul_(down * also)
    return out if bias is None else out.add_(bias)


def add_products(into: torch.Tensor, x: torch.Tensor, y: torch.Tensor, *, below: int | None = None) -> None:
    """Add xᵀ y, for x and y [T, K], to a square [K, K].

    below: of a symmetric sum only what is on and below the diagonal, in column blocks of that width.
    """
    width = below or max(into.shape[1], 1)
    scale: torch.Tensor | None = None
    if x.is_cuda:
        same = y is x
        y, also = _last.halved(y)
        x, down = (y, also) if same else halved(x)
        scale = down * also
    for begin in range(0, into.shape[1], width):
        part = into[begin:, begin : begin + width]
        left, right = x[:, begin:].T, y[:, begin : begin + width]
        if scale is None:
            part.addmm_(left, right)
        else:
            part.addcmul_(torch.mm(left, right, out_dtype=torch.float32), scale)


def halved(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """In float16, and what its products must be multiplied by (a float32 tensor without dimensions, on the device)."""
    one = torch.ones((), device=values.device)
    if values.dtype == torch.float16:
        return values, one
    exponent = torch.linalg.vector_norm(values, float("inf")).float().frexp().exponent.clamp(min=LEAST)
    up = torch.ldexp(one, TOP - exponent)
    return (values * up).half(), 1 / up


class LastHalved:
    """What was halved last: a weight meets one micro-batch after another, and an input is in two sums.

    It is known by the tensor itself and by how often that has been changed, and forgotten with it.
    """

    def __init__(self) -> None:
        self.key: tuple[weakref.ref[torch.Tensor], int] | None = None
        self.halves: tuple[torch.Tensor, torch.Tensor] | None = None

    def halved(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`halved(values)`."""
        if values.dtype == torch.float16 or values.is_inference():  # whose changes nobody counts
            return halved(values)
        if self.key is None or self.halves is None or self.key[0]() is not values or self.key[1] != values._version:
            self.key = self.halves = None  # before others are made
            self.halves = halved(values)
            self.key = weakref.ref(values, self._forget), values._version
        return self.halves

    def _forget(self, gone: weakref.ref[torch.Tensor]) -> None:
        if self.key is not None and self.key[0] is gone:
            self.key = self.halves = None


_last = LastHalved()
