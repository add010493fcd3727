"""Which tensor gets which type: the names and layers that llama-quantize treats apart."""

import pytest
from gguf.constants import GGMLQuantizationType as T

from halfbyte.checkpoint.gguf_mixtures import MIXTURES, Network, choose_type, mixture_name
from halfbyte.errors import QuantizeError

LLAMA_7B = Network(layers=32, heads=32, kv_heads=32, tied=False)
LLAMA_70B = Network(layers=80, heads=64, kv_heads=8, tied=False)


def types(mixture, tensor, network=LLAMA_7B, inputs=4096):
    return [choose_type(mixture, f"blk.{i}.{tensor}.weight", (64, inputs), network).type for i in range(network.layers)]


# What a Llama-2-7B file of each mixture shows in any GGUF viewer
@pytest.mark.parametrize(
    ("mixture", "tensor", "expected"),
    [
        ("Q4_K_M", "attn_q", {T.Q4_K: 32}),
        ("Q4_K_M", "attn_v", {T.Q6_K: 16, T.Q4_K: 16}),
        ("Q4_K_M", "ffn_down", {T.Q6_K: 16, T.Q4_K: 16}),
        ("Q4_K_S", "attn_v", {T.Q5_K: 4, T.Q4_K: 28}),
        ("Q4_K_S", "ffn_down", {T.Q5_K: 4, T.Q4_K: 28}),
        ("Q5_K_S", "ffn_down", {T.Q5_K: 32}),
        ("Q5_K_M", "attn_v", {T.Q6_K: 16, T.Q5_K: 16}),
        ("Q3_K_S", "attn_v", {T.Q3_K: 32}),
        ("Q3_K_M", "attn_v", {T.Q5_K: 2, T.Q4_K: 30}),
        ("Q3_K_M", "ffn_down", {T.Q5_K: 2, T.Q4_K: 30}),
        ("Q3_K_M", "attn_output", {T.Q4_K: 32}),
        ("Q3_K_L", "attn_v", {T.Q5_K: 32}),
        ("Q3_K_L", "ffn_down", {T.Q5_K: 32}),
        ("Q2_K", "attn_v", {T.Q3_K: 32}),
        ("Q2_K", "ffn_down", {T.Q3_K: 32}),
        ("Q2_K", "ffn_gate", {T.Q2_K: 32}),
        ("Q6_K", "attn_v", {T.Q6_K: 32}),
        ("Q4_0", "ffn_down", {T.Q4_0: 32}),
    ],
)
def test_layers_that_get_more(mixture, tensor, expected):
    found = types(mixture, tensor)
    assert {kind: found.count(kind) for kind in set(found)} == expected


def test_first_last_and_every_third():
    more = [i for i, kind in enumerate(types("Q4_K_M", "ffn_down")) if kind is T.Q6_K]
    assert more == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]


def test_small_value_matrices_of_large_networks():
    assert set(types("Q4_K_S", "attn_v", LLAMA_70B)) == {T.Q5_K}
    assert set(types("Q2_K", "attn_v", LLAMA_70B)) == {T.Q5_K}
    assert set(types("Q2_K", "attn_v", LLAMA_70B._replace(layers=48))) == {T.Q4_K}


def test_importance_guards_the_first_down_projections():
    found = types("Q4_0", "ffn_down", LLAMA_7B._replace(importance=True))
    assert found == [T.Q4_1] * 4 + [T.Q4_0] * 28


@pytest.mark.parametrize(
    ("mixture", "inputs", "tied", "expected"),
    [
        ("Q4_K_M", 4096, False, (T.Q4_K, T.Q6_K)),
        ("Q4_K_M", 4096, True, (T.Q6_K, T.Q6_K)),
        ("Q4_0", 4096, True, (T.Q6_K, T.Q6_K)),
        ("Q8_0", 4096, True, (T.Q8_0, T.Q8_0)),
        ("Q4_K_M", 576, True, (T.Q8_0, T.Q8_0)),
        ("Q4_0", 576, True, (T.Q8_0, T.Q8_0)),
        ("F16", 576, True, (T.F16, T.F16)),
    ],
)
def test_embedding_and_output(mixture, inputs, tied, expected):
    network = LLAMA_7B._replace(tied=tied)
    names = ("token_embd.weight", "output.weight")
    assert tuple(choose_type(mixture, name, (100, inputs), network).type for name in names) == expected


@pytest.mark.parametrize(
    ("mixture", "stand_in"),
    [("Q2_K", T.Q4_0), ("Q3_K_S", T.Q4_0), ("Q4_K_S", T.Q5_0), ("Q5_K_S", T.Q5_1), ("Q6_K", T.Q8_0)],
)
def test_rows_that_256_does_not_divide(mixture, stand_in):
    found = choose_type(mixture, "blk.9.attn_q.weight", (64, 576), LLAMA_7B)
    assert found == (stand_in, MIXTURES[mixture][0])
    assert choose_type(mixture, "blk.9.attn_q.weight", (64, 40), LLAMA_7B).type is T.F16


def test_norms_and_biases_stay_float32():
    for name in ("blk.0.attn_norm.weight", "blk.0.attn_q.bias", "output_norm.weight", "blk.0.attn_q_norm.weight"):
        assert choose_type("Q4_K_M", name, (4096,), LLAMA_7B).type is T.F32


def test_names():
    assert mixture_name("q4_k_m") == "Q4_K_M"
    assert mixture_name("Q4_K") == "Q4_K_M"
    with pytest.raises(QuantizeError, match=r"gguf:IQ2_XXS is not .* Q8_0, Q6_K"):
        mixture_name("IQ2_XXS")
