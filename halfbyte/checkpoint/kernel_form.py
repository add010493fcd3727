"""Weights of up to 8 bits in the form that 4-bit kernels take: several products of 4 bits, side by side.

A sum of weights for the same inputs is one weight whose inputs are taken several times over, and kernels can take
inputs in any order. So (16 h + l - z) s is two weights of 4 bits, h times 16 s and l times s; and what is added to a
whole group, as GGUF's types with a least value do, is one more, of ones. Nothing is rounded.
"""

from __future__ import annotations

import torch

from halfbyte.checkpoint.int4 import KERNEL_BITS, Int4Weight, IntWeight, narrow_scales

MOST_BITS = 8


def kernel_form(weight: IntWeight) -> tuple[Int4Weight, torch.Tensor | None] | None:
    """A weight in kernels' form, with the inputs that its columns take ([columns]; None: each once, as they are).

    Column j of the result is for input order[j]. None if there is no such form: more than 8 bits, or groups of unequal
    size.
    """
    return joint_form([weight])


def joint_form(weights: list[IntWeight]) -> tuple[Int4Weight, torch.Tensor | None] | None:
    """Weights that share their inputs, one below the other; None also where their orders differ.

    Groups are cut to the smallest size of all, and a weight of fewer pieces than others gets pieces of zeros.
    """
    order = weights[0].g_idx
    if any((w.g_idx is None) != (order is None) for w in weights):
        return None
    if order is not None and any(not torch.equal(order, w.g_idx) for w in weights):  # type: ignore[arg-type]
        return None
    sorted_weights = [_sorted(w) for w in weights]
    found = [pieces(w) for w in sorted_weights if w is not None]
    size = min(w.group_size for w in weights)
    if len(found) < len(weights) or not all(found) or any(w.group_size % size for w in weights):
        return None
    most = max(map(len, found))
    rows = []
    for own in found:
        padded = own + [_nothing(own[0])] * (most - len(own))
        parts = [_cut(piece, piece.group_size // size) for piece in padded]
        rows.append([torch.cat([getattr(part, field) for part in parts], 1) for field in "qsz"])
    q, s, z = (torch.cat([row[i] for row in rows]) for i in range(3))
    taken = None if order is None else order.argsort(stable=True)
    if most > 1:
        taken = (torch.arange(weights[0].q.shape[1]) if taken is None else taken).repeat(most)
    return Int4Weight(q, s, z), taken


def pieces(weight: IntWeight) -> list[Int4Weight]:
    """Weights of 4 bits that add up to this one, whose groups follow one another; none for more than 8 bits."""
    if weight.bits > MOST_BITS:
        return []
    if weight.bits <= KERNEL_BITS:
        found = [Int4Weight(weight.q, weight.s, weight.z)]
    else:
        high = Int4Weight(weight.q >> 4, narrow_scales(weight.s.float() * 16), weight.z >> 4)
        found = [high, Int4Weight(weight.q & 15, weight.s, weight.z & 15)]
    if weight.low is not None:
        found.append(Int4Weight(torch.ones_like(weight.q), weight.low, torch.zeros_like(weight.z)))
    return found


def _sorted(weight: IntWeight) -> IntWeight | None:
    """With groups that follow one another; None if they are of unequal size."""
    if weight.g_idx is None:
        return weight
    groups, k = weight.s.shape[1], weight.q.shape[1]
    if k % groups or (torch.bincount(weight.g_idx, minlength=groups) != k // groups).any():
        return None
    return IntWeight(weight.q[:, weight.g_idx.argsort(stable=True)], weight.s, weight.z, weight.bits, low=weight.low)


def _cut(weight: Int4Weight, parts: int) -> Int4Weight:
    """Each group as several of the same scale and zero point."""
    if parts == 1:
        return weight
    return Int4Weight(weight.q, weight.s.repeat_interleave(parts, 1), weight.z.repeat_interleave(parts, 1))


def _nothing(like: Int4Weight) -> Int4Weight:
    """All zeros, in the shape of another."""
    return Int4Weight(torch.zeros_like(like.q), torch.ones_like(like.s), torch.zeros_like(like.z))
