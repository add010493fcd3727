"""Repositories of float weights, from float, AWQ and GGUF sources."""

import json

import pytest
import torch
from small_tokenizers import byte_level_files
from tiny_checkpoints import AWQ_BLOCK, LLAMA, random_tensors, write_model

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.quant_config import AwqConfig
from halfbyte.convert import ConvertOptions, convert
from halfbyte.errors import QuantizeError

CONFIG = LLAMA | {"vocab_size": 604}


@pytest.fixture
def plain(tmp_path):
    tensors = random_tensors(CONFIG, dtype=torch.float32)
    write_model(tmp_path / "plain", CONFIG, tensors)
    for name, contents in byte_level_files().items():
        (tmp_path / "plain" / name).write_bytes(contents)
    return tmp_path / "plain"


@pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_from_floats_in_shards(plain, tmp_path, name, dtype):
    report = convert(plain, tmp_path / "out", name, ConvertOptions(max_shard_size=20_000))
    before, after = Checkpoint(open_source(plain)), Checkpoint(open_source(tmp_path / "out"))
    for tensor in before.expected:
        assert torch.equal(after.tensor(tensor), before.tensor(tensor).to(dtype)), tensor
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert after.config.dtype == str(dtype).removeprefix("torch.")
    assert (tmp_path / "out/tokenizer.json").exists()
    error = max(loss.relative_error for loss in report.losses)
    assert 0 < error < (2**-11 if name == "fp16" else 2**-8)


def test_from_awq(tmp_path):
    awq = AwqConfig(group_size=16)
    config = CONFIG | {"quantization_config": AWQ_BLOCK, "torch_dtype": "float16"}
    write_model(tmp_path / "awq", config, random_tensors(config, awq))
    (tmp_path / "awq/quant_config.json").write_text('{"zero_point": true, "q_group_size": 16, "w_bit": 4}')
    convert(tmp_path / "awq", tmp_path / "out", "bf16")
    before, after = Checkpoint(open_source(tmp_path / "awq")), Checkpoint(open_source(tmp_path / "out"))
    assert after.awq is None
    for module in ("self_attn.k_proj", "mlp.down_proj"):
        prefix = f"model.layers.1.{module}"
        assert torch.equal(after.linear(prefix), before.linear(prefix).dequantize().bfloat16())
    assert not (tmp_path / "out/quant_config.json").exists()


def test_from_gguf_and_back(plain, tmp_path):
    convert(plain, tmp_path / "m.gguf", "gguf:F16")
    convert(tmp_path / "m.gguf", tmp_path / "out", "fp16")
    before, after = Checkpoint(open_source(plain)), Checkpoint(open_source(tmp_path / "out"))
    for tensor in before.expected:
        assert torch.equal(after.tensor(tensor), before.tensor(tensor).half()), tensor


def test_what_float16_cannot_hold(plain, tmp_path):
    tensors = random_tensors(CONFIG, dtype=torch.float32)
    tensors["model.norm.weight"][0] = 1e5
    write_model(plain, CONFIG, tensors)
    with pytest.raises(QuantizeError, match=r"model\.norm\.weight holds 1e\+05.*bf16"):
        convert(plain, tmp_path / "out", "fp16")
    assert not (tmp_path / "out").exists()
    convert(plain, tmp_path / "out", "bf16")


def test_settings_are_refused(plain, tmp_path):
    with pytest.raises(QuantizeError, match="takes no settings"):
        convert(plain, tmp_path / "out", "fp16:4bit")


def test_awq_by_the_quantizer(plain, tmp_path):
    report = convert(plain, tmp_path / "out", "awq:4bit-32g", ConvertOptions(samples=2, seq_len=64))
    assert Checkpoint(open_source(tmp_path / "out")).awq.group_size == 32
    assert report.format == "awq:4bit-32g"
    assert {loss.kind for loss in report.losses} >= {"self_attn.q_proj", "mlp.down_proj"}
    assert all(0 < loss.relative_error < 1 for loss in report.losses)
    with pytest.raises(QuantizeError, match="3 bits: awq is written with 4"):
        convert(plain, tmp_path / "out2", "awq:3bit")
