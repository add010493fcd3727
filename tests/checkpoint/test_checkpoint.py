"""Checkpoint: everything that does not fit the config is told by name, file and shape; sound ones read back."""

import pytest
import torch
from safetensors.torch import save_file
from tiny_checkpoints import AWQ_BLOCK, LLAMA, of_family, random_tensors, write_model, write_sharded

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.config import ModelConfig
from halfbyte.checkpoint.expected import expected_tensors
from halfbyte.checkpoint.int4 import Int4Weight
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.quant_config import AwqConfig
from halfbyte.errors import CheckpointError, ConfigError

AWQ = AwqConfig(group_size=16)
UP = "model.layers.1.mlp.up_proj"


def open_checkpoint(folder, config=LLAMA, tensors=None) -> Checkpoint:
    write_model(folder, config, tensors)
    return Checkpoint(open_source(folder))


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_expected_tensors_are_those_of_transformers(family, tied):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = of_family(family, tie_word_embeddings=tied, head_dim=8)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    theirs = {name: tuple(t.shape) for name, t in model.state_dict().items() if not (tied and name == "lm_head.weight")}
    assert expected_tensors(ModelConfig.from_dict(config, "tiny"), None) == theirs


def test_llama_biases_are_those_of_transformers():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = of_family("llama", attention_bias=True, mlp_bias=True)
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in config.items() if k != "architectures"}))
    theirs = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    assert expected_tensors(ModelConfig.from_dict(config, "tiny"), None) == theirs


def test_a_float_checkpoint_reads_back(tmp_path):
    tensors = random_tensors(of_family("qwen2"))
    checkpoint = open_checkpoint(tmp_path, of_family("qwen2"), tensors)
    assert torch.equal(checkpoint.tensor("model.norm.weight"), tensors["model.norm.weight"])
    assert torch.equal(checkpoint.linear(UP), tensors[f"{UP}.weight"])
    assert checkpoint.bias(UP) is None
    q = "model.layers.0.self_attn.q_proj"
    assert torch.equal(checkpoint.bias(q), tensors[f"{q}.bias"])
    steps = list(checkpoint.verify())
    assert len(steps) == len(tensors)
    assert steps[-1].done == steps[-1].total == sum(t.numel() * t.itemsize for t in tensors.values())


def test_an_awq_checkpoint_reads_back(tmp_path):
    awq = AwqConfig(group_size=16, modules_to_not_convert=("layers.0.mlp.down",))
    config = of_family("qwen2", quantization_config=AWQ_BLOCK | {"modules_to_not_convert": ["layers.0.mlp.down"]})
    tensors = random_tensors(config, awq)
    tensors[f"{UP}.qweight"][0, 0] = 0x75316420
    tensors[f"{UP}.qzeros"][0, 0] = 0
    checkpoint = open_checkpoint(tmp_path, config, tensors)
    assert checkpoint.awq == awq
    weight = checkpoint.linear(UP)
    assert isinstance(weight, Int4Weight)
    assert weight.q.shape == (64, 32)
    assert weight.q[:8, 0].tolist() == list(range(8))
    assert torch.equal(weight.dequantize()[:8, 0], torch.arange(8) * tensors[f"{UP}.scales"][0, :8].float())
    assert isinstance(checkpoint.linear("model.layers.0.mlp.down_proj"), torch.Tensor)
    assert isinstance(checkpoint.linear("model.layers.1.mlp.down_proj"), Int4Weight)
    assert len(list(checkpoint.verify())) == len(tensors)


def test_one_group_per_channel(tmp_path):
    config = LLAMA | {"quantization_config": AWQ_BLOCK | {"group_size": -1}}
    tensors = random_tensors(config, AwqConfig(group_size=-1))
    weight = open_checkpoint(tmp_path, config, tensors).linear("model.layers.0.mlp.down_proj")
    assert isinstance(weight, Int4Weight)
    assert weight.group_size == 64


def test_a_group_size_that_does_not_divide_names_the_layer(tmp_path):
    config = LLAMA | {"quantization_config": AWQ_BLOCK | {"group_size": 24}}
    with pytest.raises(ConfigError, match=r"layers\.0\.self_attn\.q_proj has 32 inputs.*group size 24"):
        open_checkpoint(tmp_path, config, random_tensors(LLAMA))


def test_what_is_missing_extra_misshapen_or_mistyped_is_listed(tmp_path):
    tensors = random_tensors(LLAMA)
    del tensors["model.norm.weight"]
    tensors["model.layers.2.mlp.up_proj.weight"] = torch.zeros(64, 32)
    tensors[f"{UP}.weight"] = torch.zeros(64, 31)
    tensors["lm_head.weight"] = torch.zeros(48, 32, dtype=torch.int8)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path, LLAMA, tensors)
    file = tmp_path / "model.safetensors"
    assert str(caught.value).splitlines() == [
        f"{tmp_path}: its tensors do not fit its config (1 missing, 1 of the wrong shape, 1 of the wrong type, 1 extra):",
        "  model.norm.weight [32] is missing",
        f"  {UP}.weight in {file} has shape [64, 31], expected [64, 32]",
        f"  lm_head.weight in {file} is torch.int8, expected a float type",
        f"  model.layers.2.mlp.up_proj.weight [64, 32] in {file} is not part of this network",
    ]


def test_a_long_list_is_cut(tmp_path):
    with pytest.raises(CheckpointError, match=r"20 missing(.|\n)*and 10 more"):
        open_checkpoint(tmp_path, LLAMA, {"model.embed_tokens.weight": torch.zeros(48, 32)})


def test_packed_weights_must_be_int32(tmp_path):
    config = LLAMA | {"quantization_config": AWQ_BLOCK}
    tensors = random_tensors(config, AWQ)
    tensors[f"{UP}.qzeros"] = tensors[f"{UP}.qzeros"].to(torch.int64)
    with pytest.raises(CheckpointError, match=rf"{UP}\.qzeros in .* is torch\.int64, expected int32"):
        open_checkpoint(tmp_path, config, tensors)


def test_what_older_programs_leave_is_ignored(tmp_path):
    config = LLAMA | {"tie_word_embeddings": True}
    tensors = random_tensors(LLAMA) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}
    checkpoint = open_checkpoint(tmp_path, config, tensors)
    assert "lm_head.weight" not in [step.name for step in checkpoint.verify()]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_name_layer_and_file(tmp_path, value):
    tensors = random_tensors(LLAMA)
    tensors[f"{UP}.weight"][3, 4:7] = value
    checkpoint = open_checkpoint(tmp_path, LLAMA, tensors)
    says = rf"model\.safetensors: {UP}\.weight \(layer 1\) has 3 values that are not finite"
    with pytest.raises(CheckpointError, match=says):
        checkpoint.linear(UP)
    with pytest.raises(CheckpointError, match=says):
        list(checkpoint.verify())


def test_scales_that_are_not_finite(tmp_path):
    config = LLAMA | {"quantization_config": AWQ_BLOCK}
    tensors = random_tensors(config, AWQ)
    tensors[f"{UP}.scales"] = torch.full((2, 64), 1e6)  # finite, but not in float16
    checkpoint = open_checkpoint(tmp_path, config, tensors)
    with pytest.raises(CheckpointError, match=rf"{UP}\.scales \(layer 1\) has 128 values"):
        checkpoint.linear(UP)


def test_a_shard_that_changes_its_mind(tmp_path):
    write_sharded(tmp_path)
    checkpoint = Checkpoint(open_source(tmp_path))
    save_file({"lm_head.weight": torch.zeros(2, 2)}, tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"00002-of-00002\.safetensors.*lm_head\.weight"):
        checkpoint.tensor("lm_head.weight")


def test_smollm2_has_what_its_config_asks_for(smollm2_source):
    checkpoint = Checkpoint(smollm2_source)
    assert checkpoint.awq is None
    assert checkpoint.config.tie_word_embeddings
    assert len(checkpoint.expected) == 272
    assert checkpoint.linear("model.layers.29.mlp.down_proj").shape == (576, 1536)
