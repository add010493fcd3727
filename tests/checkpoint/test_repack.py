"""From container to container: every weight stays what it was, to the bit."""

import json
from itertools import permutations

import pytest
import torch
from test_gptq_container import DOWN, SMALL, same, write_gptq
from tiny_checkpoints import write_model

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.gptq import GptqConfig
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.quant_config import AwqConfig
from halfbyte.checkpoint.repack import container_like, repack
from halfbyte.checkpoint.writer import RepositoryWriter
from halfbyte.errors import OutputError


def converted(source: Checkpoint, name: str, out, **options) -> Checkpoint:
    with RepositoryWriter(out, max_shard_size=10**9) as writer:
        repack(source, container_like(source, name, **options), writer)
    return Checkpoint(open_source(out))


@pytest.fixture
def gptq(tmp_path) -> Checkpoint:
    write_gptq(tmp_path / "gptq", GptqConfig(4, 16))
    (tmp_path / "gptq" / "LICENSE").write_text("free")
    return Checkpoint(open_source(tmp_path / "gptq"))


@pytest.mark.parametrize("way", list(permutations(["awq", "gptq", "compressed-tensors"])))
def test_round_trips(gptq, tmp_path, way):
    checkpoint = gptq
    for step, name in enumerate((*way, way[0])):
        checkpoint = converted(checkpoint, name, tmp_path / str(step))
        assert checkpoint.container.name == name
        for prefix in gptq.linears:
            assert same(checkpoint.stored(prefix), gptq.stored(prefix)), (name, prefix)
    assert torch.equal(checkpoint.tensor("lm_head.weight"), gptq.tensor("lm_head.weight"))
    assert (checkpoint.source.folder / "LICENSE").read_text() == "free"


def test_each_has_the_files_that_its_loaders_read_and_no_others(gptq, tmp_path):
    awq = converted(gptq, "awq", tmp_path / "awq")
    assert {"quant_config.json"} == {f for f in awq.source.files() if f.startswith("quant")}
    back = converted(awq, "gptq", tmp_path / "back")
    assert {"quantize_config.json"} == {f for f in back.source.files() if f.startswith("quant")}
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "gptq"


def test_linears_that_are_float_stay_so(tmp_path):
    _, tensors = write_gptq(tmp_path / "gptq", GptqConfig(4, 16))
    for suffix in ("qweight", "qzeros", "scales", "g_idx"):
        del tensors[f"{DOWN}.{suffix}"]
    tensors[f"{DOWN}.weight"] = torch.randn(32, 64)
    write_model(tmp_path / "gptq", SMALL | {"quantization_config": GptqConfig(4, 16).config_block()}, tensors)
    checkpoint = Checkpoint(open_source(tmp_path / "gptq"))
    there = converted(checkpoint, "compressed-tensors", tmp_path / "ct")
    assert torch.equal(there.stored(DOWN), tensors[f"{DOWN}.weight"])
    assert there.container.ignore == ("lm_head", DOWN)


def test_a_bias_that_the_network_has_not(tmp_path):
    _, tensors = write_gptq(tmp_path / "gptq", GptqConfig(4, 16))
    tensors[f"{DOWN}.bias"] = torch.randn(32)
    write_model(tmp_path / "gptq", SMALL | {"quantization_config": GptqConfig(4, 16).config_block()}, tensors)
    checkpoint = Checkpoint(open_source(tmp_path / "gptq"))
    assert torch.equal(converted(checkpoint, "gptq", tmp_path / "again").bias(DOWN), tensors[f"{DOWN}.bias"])
    with pytest.raises(OutputError, match=rf"{DOWN}: it has a bias"):
        converted(checkpoint, "awq", tmp_path / "awq")


def test_what_has_no_exact_form_names_the_linear(tmp_path):
    write_gptq(tmp_path / "gptq", GptqConfig(4, 16, desc_act=True), order=True)
    ordered = Checkpoint(open_source(tmp_path / "gptq"))
    with pytest.raises(OutputError, match=r"layers\.0\.self_attn\.q_proj: .*without an activation order"):
        converted(ordered, "awq", tmp_path / "awq")
    assert not (tmp_path / "awq").exists()
    kept = converted(ordered, "compressed-tensors", tmp_path / "ct")
    assert same(kept.stored(DOWN), ordered.stored(DOWN))


def test_zero_points_of_0_need_version_2(gptq, tmp_path):
    awq = converted(gptq, "awq", tmp_path / "awq")
    from safetensors.torch import load_file, save_file

    tensors = load_file(tmp_path / "awq" / "model.safetensors")
    tensors[f"{DOWN}.qzeros"].zero_()
    save_file(tensors, tmp_path / "awq" / "model.safetensors", metadata={"format": "pt"})
    awq = Checkpoint(open_source(tmp_path / "awq"))
    with pytest.raises(OutputError, match=rf"{DOWN}: .*gptq_v2 can"):
        converted(awq, "gptq", tmp_path / "v1")
    v2 = converted(awq, "gptq", tmp_path / "v2", version="gptq_v2")
    assert same(v2.stored(DOWN), awq.stored(DOWN))


def test_what_is_not_quantized_is_refused(tmp_path):
    write_model(tmp_path, SMALL)
    checkpoint = Checkpoint(open_source(tmp_path))
    with pytest.raises(OutputError, match="is not quantized"):
        container_like(checkpoint, "awq")
    with pytest.raises(OutputError, match="is not quantized"), RepositoryWriter(tmp_path / "x", max_shard_size=1) as w:
        repack(checkpoint, AwqConfig(), w)
