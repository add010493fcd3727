"""The size formula, against the published card and against a config's own arithmetic."""

import pytest
import torch

from halfbyte.checkpoint.config import ModelConfig
from halfbyte.checkpoint.size import (
    awq_bits_per_weight,
    awq_size,
    bytes_by_part,
    linear_weight_count,
    part_of,
    weight_count,
)
from halfbyte.checkpoint.source import TensorInfo

LLAMA_2_7B = ModelConfig.from_dict(
    {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
    "Llama-2-7B",
)


@pytest.mark.parametrize(("group_size", "gigabytes"), [(128, 3.889), (64, 4.016), (32, 4.269)])
def test_llama_2_7b_has_the_size_that_its_card_states(group_size, gigabytes):
    assert round(awq_size(LLAMA_2_7B, group_size) / 1e9, 3) == gigabytes


def test_llama_2_7b_has_its_published_number_of_weights():
    assert weight_count(LLAMA_2_7B) == 6_738_415_616
    assert linear_weight_count(LLAMA_2_7B) == 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)


def test_a_group_of_128_costs_an_eighth_and_a_32nd_of_a_bit():
    assert awq_bits_per_weight(128) == 4 + 1 / 8 + 1 / 32


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("model.layers.0.self_attn.q_proj.qweight", "attention"),
        ("model.layers.0.self_attn.q_norm.weight", "norms"),
        ("model.layers.0.mlp.down_proj.scales", "mlp"),
        ("model.layers.0.post_attention_layernorm.weight", "norms"),
        ("model.norm.weight", "norms"),
        ("lm_head.weight", "head"),
        ("model.rotary_emb.inv_freq", "other"),
    ],
)
def test_parts(name, part):
    assert part_of(name) == part


def test_bytes_by_part_counts_every_tensor_once():
    def info(nbytes):
        return TensorInfo(torch.float16, (), nbytes)

    tensors = {
        "model.embed_tokens.weight": info(1),
        "model.layers.0.mlp.up_proj.qweight": info(10),
        "model.layers.1.mlp.up_proj.scales": info(100),
        "model.norm.weight": info(1000),
    }
    sizes = bytes_by_part(tensors)
    assert sizes == {"embedding": 1, "attention": 0, "mlp": 110, "norms": 1000, "head": 0, "other": 0}
