"""A part of a linear's weight: some of its outputs, some of its inputs."""

from __future__ import annotations

from dataclasses import replace
from math import gcd

import torch

from halfbyte.checkpoint.int4 import IntWeight


def part_of(weight: IntWeight | torch.Tensor, outputs: range, inputs: range) -> IntWeight | torch.Tensor:
    """The rows `outputs` and columns `inputs` of [N, K], both of step 1; a copy, so that the rest can be let go.

    Nothing is rounded. Where a border runs through a group, groups are cut into smaller ones of equal size that have
    its scale and zero point; where inputs are in an activation order, each keeps its group, and the groups of a part
    may be of unequal size.
    """
    rows, columns = slice(outputs.start, outputs.stop), slice(inputs.start, inputs.stop)
    if isinstance(weight, torch.Tensor):
        return weight[rows, columns].contiguous()
    q = weight.q[rows, columns].contiguous()
    of_group = [weight.s, weight.z] if weight.low is None else [weight.s, weight.z, weight.low]
    if weight.g_idx is not None:
        s, z, *low = (x[rows].contiguous() for x in of_group)
        return replace(weight, q=q, s=s, z=z, low=low[0] if low else None, g_idx=weight.g_idx[columns].contiguous())
    size = weight.group_size
    smaller = gcd(size, inputs.start, inputs.stop)
    groups = slice(inputs.start // smaller, inputs.stop // smaller)
    s, z, *low = (x[rows].repeat_interleave(size // smaller, 1)[:, groups].contiguous() for x in of_group)
    return replace(weight, q=q, s=s, z=z, low=low[0] if low else None)
