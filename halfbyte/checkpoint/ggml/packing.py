"""Bits into bytes, as ggml's blocks have them. Levels come as uint8 [L, B], bytes leave as uint8 [B, n]."""

from __future__ import annotations

import torch

Tensor = torch.Tensor


def half_bytes(d: Tensor) -> Tensor:
    """A float16 a block: [B] -> [B, 2]."""
    return d.to(torch.float16).contiguous().view(torch.uint8).view(-1, 2)


def nibble_halves(q: Tensor) -> Tensor:
    """Low four bits of 32 levels: byte i holds level i and, above it, level i + 16."""
    q = q & 15
    return (q[:16] | (q[16:] << 4)).T.contiguous()


def high_bits(q: Tensor) -> Tensor:
    """Bit 4 of 32 levels, level i at bit i of four bytes."""
    return bits_to_bytes(((q >> 4) & 1).view(4, 8, -1)).T.contiguous()


def bits_to_bytes(bits: Tensor) -> Tensor:
    """[n, 8, B] of 0 and 1 -> [n, B]."""
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)[:, None]
    return (bits << shifts).sum(1, dtype=torch.uint8)


def quarters(q: Tensor) -> Tensor:
    """Two bits of 256 levels: in each 128, byte i holds levels i, i + 32, i + 64, i + 96."""
    q = (q & 3).view(2, 4, 32, -1)
    return (q[:, 0] | (q[:, 1] << 2) | (q[:, 2] << 4) | (q[:, 3] << 6)).view(64, -1).T.contiguous()


def nibble_pairs(q: Tensor) -> Tensor:
    """Low four bits of 256 levels: in each 64, byte i holds level i and, above it, level i + 32."""
    q = (q & 15).view(4, 2, 32, -1)
    return (q[:, 0] | (q[:, 1] << 4)).view(128, -1).T.contiguous()


def bit_planes(bits: Tensor) -> Tensor:
    """One bit of 256 levels: byte i holds that of level i + 32 j at bit j."""
    planes = (bits & 1).view(8, 32, -1).transpose(0, 1)
    return bits_to_bytes(planes).T.contiguous()


def six_bit_pairs(scales: Tensor, mins: Tensor) -> Tensor:
    """Eight 6-bit scales and eight 6-bit minima, uint8 [8, B] each, in 12 bytes."""
    first = scales[:4] | ((scales[4:] >> 4) << 6)
    second = mins[:4] | ((mins[4:] >> 4) << 6)
    third = (scales[4:] & 15) | ((mins[4:] & 15) << 4)
    return torch.cat([first, second, third]).T.contiguous()


def six_bit_scales(scales: Tensor) -> Tensor:
    """Sixteen 6-bit scales, uint8 [16, B], in 12 bytes."""
    low = (scales[:8] & 15) | ((scales[8:] & 15) << 4)
    high = (scales >> 4).view(4, 4, -1)
    return torch.cat([low, high[0] | (high[1] << 2) | (high[2] << 4) | (high[3] << 6)]).T.contiguous()
