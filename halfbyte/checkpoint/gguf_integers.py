"""GGUF's types of 4 to 8 bits as the integers that they are, without rounding: w = (q - z) s + low.

Layouts are those of ggml-common.h. Blocks of 32 hold one scale (and least value) in float16; blocks of 256 hold d
(and dmin) in float16 and integers that multiply them for each 32 weights, or 16 with Q6_K.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from halfbyte.checkpoint.gguf_source import GGUFSource
from halfbyte.checkpoint.int4 import IntWeight, narrow_scales

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from halfbyte.checkpoint.source import Source

# q uint8 [N, blocks, ...], s [N, groups], z (one for all), bits, low [N, groups]
Parts = tuple[torch.Tensor, torch.Tensor, int, int, torch.Tensor | None]


def gguf_integers(source: Source, name: str) -> IntWeight | None:
    """A weight [N, K] by its Hugging Face name, if a GGUF file holds it in one of `READERS`; None if it does not."""
    if not isinstance(source, GGUFSource) or source.type_of(name) not in READERS:
        return None
    kind, data = source.encoded(name)
    rows = source.in_hf_order(name, data)
    blocks = rows.reshape(rows.shape[0], -1, GGML_QUANT_SIZES[kind][1])
    q, s, zero, bits, low = READERS[kind](blocks)
    n = rows.shape[0]
    z = torch.full((n, s.numel() // n), zero, dtype=torch.uint8)
    return IntWeight(
        q.reshape(n, -1), s.reshape(n, -1), z, bits, low=None if low is None else low.reshape(n, -1)
    )  # fmt: skip


def has_gguf_integers(source: Source, prefixes: Iterable[str]) -> bool:
    """Whether any of these linears is one."""
    if not isinstance(source, GGUFSource):
        return False
    return any(source.type_of(f"{prefix}.weight") in READERS for prefix in prefixes)


def _half(blocks: torch.Tensor, at: int) -> torch.Tensor:
    return blocks[..., at : at + 2].contiguous().view(torch.float16)[..., 0]


def _split(data: torch.Tensor, *shape: int) -> torch.Tensor:
    return data.reshape(*data.shape[:-1], *shape)


def _nibbles(data: torch.Tensor) -> torch.Tensor:
    """All low ones, then all high ones."""
    return torch.cat((data & 15, data >> 4), -1)


def _fifth_bits(data: torch.Tensor) -> torch.Tensor:
    """Of 32 weights, in the order of the bits of 4 bytes; worth 16."""
    shifts = torch.arange(8, dtype=torch.uint8)
    return ((data[..., None] >> shifts) & 1).flatten(-2) << 4


def _q4_0(blocks: torch.Tensor) -> Parts:
    return _nibbles(blocks[..., 2:]), _half(blocks, 0), 8, 4, None


def _q4_1(blocks: torch.Tensor) -> Parts:
    return _nibbles(blocks[..., 4:]), _half(blocks, 0), 0, 4, _half(blocks, 2)


def _q5_0(blocks: torch.Tensor) -> Parts:
    return _nibbles(blocks[..., 6:]) | _fifth_bits(blocks[..., 2:6]), _half(blocks, 0), 16, 5, None


def _q5_1(blocks: torch.Tensor) -> Parts:
    return _nibbles(blocks[..., 8:]) | _fifth_bits(blocks[..., 4:8]), _half(blocks, 0), 0, 5, _half(blocks, 2)


def _q8_0(blocks: torch.Tensor) -> Parts:
    return blocks[..., 2:] ^ 128, _half(blocks, 0), 128, 8, None  # from two's complement to 0..255


def _k_scales(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and least values of the 8 groups of Q4_K and Q5_K: 12 bytes with 6 bits of each."""
    packed = blocks[..., 4:16]
    first, second, third = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = torch.cat((first & 63, (third & 15) | ((first >> 6) << 4)), -1)
    least = torch.cat((second & 63, (third >> 4) | ((second >> 6) << 4)), -1)
    return (
        narrow_scales(_half(blocks, 0).float()[..., None] * scales.float()),
        narrow_scales(-(_half(blocks, 2).float()[..., None] * least.float())),
    )


def _q4_k(blocks: torch.Tensor) -> Parts:
    s, low = _k_scales(blocks)
    return _nibbles(_split(blocks[..., 16:], 4, 32)), s, 0, 4, low


def _q5_k(blocks: torch.Tensor) -> Parts:
    s, low = _k_scales(blocks)
    shifts = torch.arange(8, dtype=torch.uint8)[:, None]
    fifth = ((blocks[..., None, 16:48] >> shifts) & 1) << 4  # [N, blocks, 8 groups, 32]
    nibbles = _nibbles(_split(blocks[..., 48:], 4, 32))
    return nibbles.flatten(-2) | fifth.flatten(-2), s, 0, 5, low


def _q6_k(blocks: torch.Tensor) -> Parts:
    nibbles = _nibbles(_split(blocks[..., :128], 2, 64))  # [N, blocks, 2, 128]
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8)[:, None]
    upper = ((_split(blocks[..., 128:192], 2, 1, 32) >> shifts) & 3) << 4  # [N, blocks, 2, 4, 32]
    scales = blocks[..., 192:208].contiguous().view(torch.int8).float()
    s = _half(blocks, 208).float()[..., None] * scales
    return nibbles.flatten(-2) | upper.flatten(-3), narrow_scales(s), 32, 6, None


READERS: dict[GGMLQuantizationType, Callable[[torch.Tensor], Parts]] = {
    GGMLQuantizationType.Q4_0: _q4_0,
    GGMLQuantizationType.Q4_1: _q4_1,
    GGMLQuantizationType.Q5_0: _q5_0,
    GGMLQuantizationType.Q5_1: _q5_1,
    GGMLQuantizationType.Q8_0: _q8_0,
    GGMLQuantizationType.Q4_K: _q4_k,
    GGMLQuantizationType.Q5_K: _q5_k,
    GGMLQuantizationType.Q6_K: _q6_k,
}
