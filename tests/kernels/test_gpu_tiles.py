"""4-bit tiles hold what went in, whatever the shape."""

from __future__ import annotations

import pytest
import torch

from halfbyte.checkpoint.int4 import Int4Weight
from halfbyte.kernels.gpu.tiles import group_of, pack_tiles, unpack_tiles


def weight(N: int, K: int, size: int) -> Int4Weight:
    generator = torch.Generator().manual_seed(N + K)
    q = torch.randint(0, 16, (N, K), dtype=torch.uint8, generator=generator)
    z = torch.randint(0, 16, (N, K // size), dtype=torch.uint8, generator=generator)
    return Int4Weight(q, torch.rand(N, K // size, generator=generator).half(), z)


@pytest.mark.parametrize(
    ("N", "K", "size", "packed"),
    [
        (48, 256, 128, 128),
        (40, 192, 64, 64),
        (24, 192, 32, 32),
        (16, 576, 576, 64),
        (16, 896, 896, 128),
        (8, 512, 256, 128),
    ],
)
def test_tiles_hold_the_weight(N, K, size, packed):
    w = weight(N, K, size)
    tiles = pack_tiles(w)
    assert tiles.group == packed
    assert torch.equal(unpack_tiles(tiles), w.dequantize())


def test_groups_that_have_no_tiles():
    assert group_of(weight(16, 96, 32)) is None  # not whole steps
    assert group_of(weight(16, 128, 16)) is None
