"""Small integers as one dense stream of bits in 32-bit words, the lowest bits first.

GPTQ and compressed-tensors pack this way: value i lies at bits i * b .. i * b + b - 1 of the stream, so that 32 values
of b bits fill b words whole, and at 3, 5, 6 or 7 bits some values straddle two words.
"""

from __future__ import annotations

import torch

_WORD = 32


def words_for(count: int, bits: int) -> int:
    """Words that hold `count` values."""
    return -(-count * bits // _WORD)


def pack_bits(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Uint8 [..., n] with values of `bits` bits -> int32 [..., ceil(n * bits / 32)]."""
    count = values.shape[-1]
    padded = torch.nn.functional.pad(values, (0, -count % _WORD)).contiguous()
    groups = padded.view(*values.shape[:-1], -1, _WORD)
    words = torch.zeros(*groups.shape[:-1], bits, dtype=torch.int64, device=values.device)
    for i in range(_WORD):
        word, offset = divmod(i * bits, _WORD)
        shifted = groups[..., i].long() << offset
        words[..., word] |= shifted & 0xFFFFFFFF
        if offset + bits > _WORD:
            words[..., word + 1] |= shifted >> _WORD
    signed = torch.where(words >= 1 << 31, words - (1 << 32), words)
    return signed.to(torch.int32).flatten(-2)[..., : words_for(count, bits)].contiguous()


def unpack_bits(words: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Int32 [..., ceil(count * bits / 32)] -> uint8 [..., count]."""
    padded = torch.nn.functional.pad(words, (0, -words.shape[-1] % bits)).contiguous()
    groups = padded.view(*words.shape[:-1], -1, bits)
    values = torch.empty(*groups.shape[:-1], _WORD, dtype=torch.uint8, device=words.device)
    for i in range(_WORD):
        word, offset = divmod(i * bits, _WORD)
        value = (groups[..., word] >> offset) & ((1 << min(bits, _WORD - offset)) - 1)  # the shift copies the sign
        if offset + bits > _WORD:
            low = _WORD - offset
            value = value | ((groups[..., word + 1] & ((1 << (bits - low)) - 1)) << low)
        values[..., i] = value.to(torch.uint8)
    return values.flatten(-2)[..., :count].contiguous()
