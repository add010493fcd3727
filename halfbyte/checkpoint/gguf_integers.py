"""GGUF's Q4_0 as the integers that it is: w = (q - 8) * d, in the form that 4-bit kernels take, without rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from gguf.constants import GGMLQuantizationType

from halfbyte.checkpoint.gguf_source import GGUFSource
from halfbyte.checkpoint.int4 import IntWeight

if TYPE_CHECKING:
    from collections.abc import Iterable

    from halfbyte.checkpoint.source import Source

BLOCK = 32
BLOCK_BYTES = 18  # a float16 scale, then 16 bytes: byte i holds weight i and, above it, weight i + 16
MIDDLE = 8


def gguf_integers(source: Source, name: str) -> IntWeight | None:
    """A weight [N, K] by its Hugging Face name, if a GGUF file holds it as Q4_0; None if it does not."""
    if not isinstance(source, GGUFSource) or source.type_of(name) is not GGMLQuantizationType.Q4_0:
        return None
    _, data = source.encoded(name)
    rows = source.in_hf_order(name, data)
    blocks = rows.view(rows.shape[0], -1, BLOCK_BYTES)
    scales = blocks[..., :2].contiguous().view(torch.float16)[..., 0]
    nibbles = blocks[..., 2:]
    q = torch.cat((nibbles & 15, nibbles >> 4), -1).view(rows.shape[0], -1)
    return IntWeight(q, scales, torch.full(scales.shape, MIDDLE, dtype=torch.uint8))


def has_gguf_integers(source: Source, prefixes: Iterable[str]) -> bool:
    """Whether any of these linears is one."""
    if not isinstance(source, GGUFSource):
        return False
    return any(source.type_of(f"{prefix}.weight") is GGMLQuantizationType.Q4_0 for prefix in prefixes)
