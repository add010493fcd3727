"""Streams of small integers in words, against a big integer that holds the same bits."""

import pytest
import torch

from halfbyte.checkpoint.bits import pack_bits, unpack_bits, words_for


def by_big_integer(values: list[int], bits: int) -> list[int]:
    stream = sum(value << (i * bits) for i, value in enumerate(values))
    words = [(stream >> (32 * i)) & 0xFFFFFFFF for i in range(words_for(len(values), bits))]
    return [word - (1 << 32) if word >> 31 else word for word in words]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("count", [1, 10, 11, 32, 33, 64, 96])
def test_a_row_is_one_stream(bits, count):
    values = torch.randint(0, 2**bits, (3, count), generator=torch.Generator().manual_seed(bits), dtype=torch.uint8)
    packed = pack_bits(values, bits)
    assert packed.dtype == torch.int32
    assert packed.tolist() == [by_big_integer(row, bits) for row in values.tolist()]
    assert torch.equal(unpack_bits(packed, bits, count), values)


def test_the_published_example():
    assert pack_bits(torch.arange(8, dtype=torch.uint8), 4).tolist() == [0x76543210]
