"""GPTQ's container, against AutoGPTQ's published packing loop restated here for one weight at a time."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_checkpoints import LLAMA, of_family, random_tensors, write_model

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.config import ModelConfig
from halfbyte.checkpoint.containers import new_container, read_container
from halfbyte.checkpoint.expected import linear_shapes
from halfbyte.checkpoint.gptq import GptqConfig
from halfbyte.checkpoint.int4 import Int4Weight, IntWeight
from halfbyte.checkpoint.kernel_form import kernel_form
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.quant_config import AwqConfig
from halfbyte.errors import CheckpointError, ConfigError, OutputError

DOWN = "model.layers.1.mlp.down_proj"
SMALL = LLAMA | {"num_key_value_heads": 4}  # all outputs in 32s, as 3 bits need


def autogptq_words(values: list[int], bits: int) -> list[int]:
    """One column of qweight, or one row of qzeros, as its loops fill it: 3 bits as 10 + a split one + 10 + .."""
    words = []
    if bits != 3:
        for i in range(0, len(values), 32 // bits):
            words.append(sum(v << (bits * j) for j, v in enumerate(values[i : i + 32 // bits])))
    else:
        for i in range(0, len(values), 32):
            v = values[i : i + 32]
            words.append(sum(v[j] << (3 * j) for j in range(10)) | v[10] << 30 & 0xFFFFFFFF)
            words.append(v[10] >> 2 & 1 | sum(v[11 + j] << (3 * j + 1) for j in range(10)) | v[21] << 31 & 0xFFFFFFFF)
            words.append(v[21] >> 1 & 3 | sum(v[22 + j] << (3 * j + 2) for j in range(10)))
    return [w - (1 << 32) if w >> 31 else w for w in words]


def theirs(weight: IntWeight, version: str) -> dict[str, torch.Tensor]:
    """As AutoGPTQ (v1) or GPTQModel (v2) packs it. Zero points of version 1 must not be 0."""
    stored = weight.z.int() - (1 if version == "gptq" else 0)
    assert (stored >= 0).all()
    k = weight.q.shape[1]
    g_idx = torch.arange(k) // (k // weight.s.shape[1]) if weight.g_idx is None else weight.g_idx
    columns = [autogptq_words(column, weight.bits) for column in weight.q.tolist()]
    return {
        "qweight": torch.tensor(columns, dtype=torch.int32).T.contiguous(),
        "qzeros": torch.tensor([autogptq_words(row, weight.bits) for row in stored.T.tolist()], dtype=torch.int32),
        "scales": weight.s.T.contiguous(),
        "g_idx": g_idx.int(),
    }


def random_weight(n, k, bits, group_size, order=False, least_zero=1, seed=0) -> IntWeight:
    g = torch.Generator().manual_seed(seed)
    groups = k // group_size
    q = torch.randint(0, 2**bits, (n, k), generator=g, dtype=torch.uint8)
    z = torch.randint(least_zero, 2**bits, (n, groups), generator=g, dtype=torch.uint8)
    s = (torch.rand(n, groups, generator=g) / 16 + 1e-3).half()
    g_idx = (torch.arange(k) // group_size)[torch.randperm(k, generator=g)] if order else None
    return IntWeight(q, s, z, bits, g_idx)


def same(a: IntWeight, b: IntWeight) -> bool:
    both_ordered = (a.g_idx is None) == (b.g_idx is None) and (a.g_idx is None or torch.equal(a.g_idx, b.g_idx))
    return both_ordered and all(torch.equal(getattr(a, part), getattr(b, part)) for part in ("q", "s", "z"))


@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("desc_act", [False, True])
@pytest.mark.parametrize("group_size", [32, 64, 128, -1])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_reading_and_writing_are_theirs(bits, group_size, desc_act, version):
    n, k = 32, 256
    weight = random_weight(n, k, bits, k if group_size == -1 else group_size, desc_act and group_size != -1)
    config = GptqConfig(bits, group_size, desc_act, checkpoint_format=version)
    packed, expected = config.pack(weight), theirs(weight, version)
    assert {name: t.dtype for name, t in packed.items()} == {name: t.dtype for name, t in expected.items()}
    assert all(torch.equal(packed[name], expected[name]) for name in expected)
    assert {name: tuple(t.shape) for name, t in packed.items()} | {"bias": (n,)} == config.shapes("x", n, k)
    assert same(config.unpack("x", packed, n, k), weight)


def write_gptq(folder, config: GptqConfig, legacy_only=False, model=SMALL, order=False):
    """A repository in this form and its weights; `legacy_only`: with quantize_config.json alone, as in 2023."""
    tensors, weights = random_tensors(model), {}
    for i, (prefix, (n, k)) in enumerate(linear_shapes(ModelConfig.from_dict(model, "tiny")).items()):
        del tensors[f"{prefix}.weight"]
        weights[prefix] = random_weight(
            n, k, config.bits, config.group_size if config.group_size > 0 else k, order, seed=i
        )
        if config.sym:
            weights[prefix].z.fill_(2 ** (config.bits - 1))
        tensors |= {f"{prefix}.{suffix}": t for suffix, t in theirs(weights[prefix], config.checkpoint_format).items()}
    write_model(folder, model if legacy_only else model | {"quantization_config": config.config_block()}, tensors)
    if legacy_only:
        (folder / "quantize_config.json").write_text(json.dumps(config.json_files()["quantize_config.json"]))
    return weights, tensors


@pytest.mark.parametrize("legacy_only", [True, False])
@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_repository_reads_back(tmp_path, bits, sym, legacy_only):
    config = GptqConfig(bits, 16, sym=sym)
    weights, tensors = write_gptq(tmp_path, config, legacy_only)
    checkpoint = Checkpoint(open_source(tmp_path))
    found = checkpoint.container
    assert (found.name, found.bits, found.group_size, found.sym) == ("gptq", bits, 16, sym)
    for prefix, weight in weights.items():
        assert same(checkpoint.stored(prefix), weight)
        used = checkpoint.linear(prefix)
        assert isinstance(used, Int4Weight) == (bits <= 4)
        assert torch.equal(used if bits > 4 else used.dequantize(), weight.dequantize())
    assert len(list(checkpoint.verify())) == len(tensors)


def test_old_files_without_a_group_index_and_with_zero_biases(tmp_path):
    config = GptqConfig(4, 16)
    weights, tensors = write_gptq(tmp_path, config, legacy_only=True)
    tensors = {name: t for name, t in tensors.items() if not name.endswith("g_idx")}
    tensors[f"{DOWN}.bias"] = torch.zeros(32, dtype=torch.float16)
    tensors["model.layers.1.mlp.up_proj.bias"] = torch.ones(64, dtype=torch.float16)
    write_model(tmp_path, SMALL, tensors)
    checkpoint = Checkpoint(open_source(tmp_path))
    assert same(checkpoint.stored(DOWN), weights[DOWN])
    assert checkpoint.bias(DOWN) is None
    assert checkpoint.bias("model.layers.1.mlp.up_proj").sum() == 64


def test_a_bias_that_the_network_has_must_be_there(tmp_path):
    model = of_family("qwen2")
    _, tensors = write_gptq(tmp_path, GptqConfig(4, 16), model=model)
    del tensors["model.layers.0.self_attn.q_proj.bias"]
    write_model(tmp_path, model | {"quantization_config": GptqConfig(4, 16).config_block()}, tensors)
    with pytest.raises(CheckpointError, match=r"layers\.0\.self_attn\.q_proj\.bias \[32\] is missing"):
        Checkpoint(open_source(tmp_path))


def test_a_linear_that_was_left_float(tmp_path):
    _, tensors = write_gptq(tmp_path, GptqConfig(4, 16))
    for suffix in ("qweight", "qzeros", "scales", "g_idx"):
        del tensors[f"{DOWN}.{suffix}"]
    tensors[f"{DOWN}.weight"] = torch.ones(32, 64)
    write_model(tmp_path, SMALL | {"quantization_config": GptqConfig(4, 16).config_block()}, tensors)
    assert torch.equal(Checkpoint(open_source(tmp_path)).linear(DOWN), torch.ones(32, 64))


def test_an_activation_order_becomes_an_order_of_inputs(tmp_path):
    config = GptqConfig(4, 16, desc_act=True)
    weights, _ = write_gptq(tmp_path, config, order=True)
    checkpoint = Checkpoint(open_source(tmp_path))
    assert checkpoint.container == replace(config, float_modules=checkpoint.container.float_modules)
    stored = checkpoint.stored(DOWN)
    assert same(stored, weights[DOWN])
    form, order = kernel_form(stored)
    assert torch.equal(form.dequantize(), stored.dequantize()[:, order])
    assert torch.equal(checkpoint.linear(DOWN), stored.dequantize())


def test_a_group_that_is_smaller_than_the_others():
    config = GptqConfig(4, 24)
    weight = random_weight(8, 64, 4, 16)
    ragged = IntWeight(weight.q, weight.s[:, :3], weight.z[:, :3], 4, torch.arange(64) // 24)
    back = config.unpack("x", config.pack(ragged), 8, 64)
    assert same(back, ragged)
    assert kernel_form(back) is None


def test_zero_points_of_0_in_version_1():
    config = GptqConfig(4, 16)
    weight = random_weight(8, 64, 4, 16)
    weight.z[3, 2] = 0
    weight.q[3, 32:48] = torch.arange(16, dtype=torch.uint8) % 15  # leaves level 15 free
    packed = config.pack(weight)
    assert torch.equal(config.unpack("x", packed, 8, 64).dequantize(), weight.dequantize())
    borrowing = replace(config, borrowed=True)
    assert torch.equal(borrowing.unpack("x", packed, 8, 64).dequantize(), weight.dequantize())
    weight.q[3, 40] = 15
    with pytest.raises(OutputError, match=r"1 of its weights are at the highest level.*gptq_v2 can"):
        config.pack(weight)
    v2 = GptqConfig(4, 16, checkpoint_format="gptq_v2")
    assert same(v2.unpack("x", v2.pack(weight), 8, 64), weight)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zero_points_that_gptqmodel_lowered_as_whole_words(tmp_path, bits):
    """It takes one from every value of a word at once, so that a 0 borrows from its neighbour."""
    weight = random_weight(32, 64, bits, 16, least_zero=0)
    weight.z[0, 0], weight.z[1, 0] = 0, 0
    v2 = GptqConfig(bits, 16, checkpoint_format="gptq_v2").pack(weight)
    ones = sum(1 << i for i in range(0, 32, bits))
    lowered = (v2["qzeros"].long() - ones) % (1 << 32)
    v1 = v2 | {"qzeros": torch.where(lowered >= 1 << 31, lowered - (1 << 32), lowered).int()}
    block = GptqConfig(bits, 16).config_block() | {"meta": {"quantizer": ["gptqmodel:5.0.0"]}}
    write_model(tmp_path, SMALL | {"quantization_config": block}, {"x.weight": torch.zeros(1)})
    config = read_container(open_source(tmp_path))
    assert config.borrowed
    assert same(config.unpack("x", v1, 32, 64), weight)


def test_zero_points_that_wrapped_one_by_one():
    weight = random_weight(32, 64, 4, 16, least_zero=0)
    weight.z[0, 0] = 0
    v2 = GptqConfig(4, 16, checkpoint_format="gptq_v2").pack(weight)
    wrapped = GptqConfig(4, 16, checkpoint_format="gptq_v2").pack(replace(weight, z=(weight.z - 1) & 15))
    assert same(GptqConfig(4, 16).unpack("x", v2 | {"qzeros": wrapped["qzeros"]}, 32, 64), weight)


def test_awq_and_gptq_hold_the_same_weight():
    weight = random_weight(16, 64, 4, 16)
    awq, gptq = AwqConfig(group_size=16), new_container("gptq", 16)
    there = gptq.unpack("x", gptq.pack(awq.unpack("x", awq.pack(weight), 16, 64)), 16, 64)
    assert same(awq.unpack("x", awq.pack(there), 16, 64), weight)


@pytest.mark.parametrize(
    ("config", "changes", "says"),
    [
        (GptqConfig(3, 16), {}, "4 bits does not fit GPTQ with 3"),
        (GptqConfig(4, 32), {}, "64 inputs are in 4 groups, but group size 32 makes 2"),
        (GptqConfig(4, 16, sym=True), {}, "not all in the middle"),
        (GptqConfig(4, 16), {"g_idx": torch.arange(64) % 4}, "activation order, which GPTQ says with desc_act"),
        (GptqConfig(4, 16), {"s": torch.full((8, 4), 1e-9)}, "do not fit float16"),
        (AwqConfig(group_size=16), {"g_idx": torch.arange(64) % 4}, "without an activation order"),
        (AwqConfig(group_size=32), {}, "4 groups, but group size 32 makes 2"),
        (AwqConfig(group_size=16), {"bits": 8}, "holds 4 bits a weight"),
    ],
)
def test_what_cannot_be_held_is_said(config, changes, says):
    with pytest.raises(OutputError, match=says):
        config.pack(replace(random_weight(8, 64, 4, 16), **changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"bits": 5}, r"quantization_config\.bits is 5, which cannot be read; GPTQ with 2, 3, 4, 8 can"),
        ({"group_size": 0}, "group_size must be positive, or -1"),
        ({"checkpoint_format": "marlin"}, "checkpoint_format is 'marlin'"),
        ({"is_marlin_format": True}, "is_marlin_format is true"),
        ({"lm_head": True}, "lm_head is true"),
        ({"pack_dtype": "int16"}, "pack_dtype is 'int16'"),
        ({"dynamic": {"-:.*up.*": {}, "+:.*down.*": {"bits": 8}}}, r"dynamic has settings of its own for '\+:"),
        ({"desc_act": 1}, "desc_act must be true or false"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, changes, says):
    block = GptqConfig().config_block() | changes
    write_model(tmp_path, SMALL | {"quantization_config": block}, {"x.weight": torch.zeros(1)})
    with pytest.raises(ConfigError, match=says):
        read_container(open_source(tmp_path))


def test_two_files_that_disagree(tmp_path):
    write_gptq(tmp_path, GptqConfig(4, 16))
    (tmp_path / "quantize_config.json").write_text(json.dumps(GptqConfig(4, 32).json_files()["quantize_config.json"]))
    with pytest.raises(ConfigError, match="contradict each other"):
        Checkpoint(open_source(tmp_path))


def test_a_group_index_out_of_range(tmp_path):
    _, tensors = write_gptq(tmp_path, GptqConfig(4, 16, desc_act=True))
    tensors[f"{DOWN}.g_idx"][5] = 4
    write_model(tmp_path, SMALL | {"quantization_config": GptqConfig(4, 16).config_block()}, tensors)
    with pytest.raises(
        CheckpointError, match=rf"model\.safetensors: {DOWN}\.g_idx names groups 0\.\.4, of which there are 4"
    ):
        Checkpoint(open_source(tmp_path)).stored(DOWN)
