"""The gemm container, held to its description by a decoder written from that description alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.checkpoint.awq import pack_columns, pack_gemm, unpack_columns, unpack_gemm
from halfbyte.checkpoint.int4 import Int4Weight, concat_rows
from halfbyte.errors import CheckpointError


def decode(qweight, qzeros, scales):
    """Dequantized [K, N] by arithmetic on Python integers, one element at a time."""
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    k, words = qweight.shape
    group = k // scales.shape[0]
    out = torch.zeros(k, words * 8)
    for row in range(k):
        for word in range(words):
            q, z = int(qweight[row, word]) & 0xFFFFFFFF, int(qzeros[row // group, word]) & 0xFFFFFFFF
            for nibble in range(8):
                column = 8 * word + order[nibble]
                steps = ((q >> 4 * nibble) & 15) - ((z >> 4 * nibble) & 15)
                out[row, column] = steps * float(scales[row // group, column])
    return out


def random_weight(n: int, k: int, group: int, seed: int = 0) -> Int4Weight:
    g = torch.Generator().manual_seed(seed)
    return Int4Weight(
        torch.randint(0, 16, (n, k), generator=g, dtype=torch.uint8),
        torch.rand(n, k // group, generator=g).half(),
        torch.randint(0, 16, (n, k // group), generator=g, dtype=torch.uint8),
    )


def test_columns_0_to_7_pack_to_the_known_word():
    words = pack_columns(torch.arange(8, dtype=torch.uint8)[None])
    assert words.dtype == torch.int32
    assert int(words[0, 0]) == 0x75316420


def test_a_word_with_its_top_bit_set_is_a_negative_int32():
    words = pack_columns(torch.full((1, 8), 15, dtype=torch.uint8))
    assert int(words[0, 0]) == -1
    assert unpack_columns(words).tolist() == [[15]] * 8


@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from([1, 2, 8]), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_packing_loses_nothing_and_decodes_as_described(words, groups, size, seed):
    weight = random_weight(words * 8, groups * size, size, seed)
    packed = pack_gemm(weight)
    back = unpack_gemm(packed["qweight"], packed["qzeros"], packed["scales"])
    assert torch.equal(back.q, weight.q)
    assert torch.equal(back.z, weight.z)
    assert torch.equal(back.s, weight.s)
    described = decode(packed["qweight"], packed["qzeros"], packed["scales"])
    assert torch.equal(described.T, weight.dequantize())


def test_shapes_and_types_are_the_containers():
    packed = pack_gemm(random_weight(16, 64, 32))
    assert {name: (tuple(t.shape), t.dtype) for name, t in packed.items()} == {
        "qweight": ((64, 2), torch.int32),
        "qzeros": ((2, 2), torch.int32),
        "scales": ((2, 16), torch.float16),
    }


def test_tensors_that_do_not_belong_together_are_an_error():
    packed = pack_gemm(random_weight(16, 64, 32))
    with pytest.raises(CheckpointError, match=r"qzeros \[2, 1\]"):
        unpack_gemm(packed["qweight"], packed["qzeros"][:, :1], packed["scales"])


def test_stacked_rows_dequantize_like_the_parts():
    parts = [random_weight(8, 32, 16, seed) for seed in range(3)]
    assert torch.equal(concat_rows(parts).dequantize(), torch.cat([p.dequantize() for p in parts]))
