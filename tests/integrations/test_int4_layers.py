"""Plain `from_pretrained` of transformers, on our layers."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_awq import FAMILIES, dequantized, write_awq
from transformers import AutoModel, AutoModelForCausalLM
from transformers.quantizers import auto

from halfbyte.errors import CheckpointError, ConfigError, HalfbyteError, IntegrationError, OutputError
from halfbyte.integrations import transformers as doors
from halfbyte.integrations.int4_linear import Int4Linear
from halfbyte.kernels.reference import ReferenceKernels

# relative error that activations rounded to 8 bits leave in these networks' logits: 0.015 to 0.034 was measured
EIGHT_BIT_NOISE = 0.06
IDS = torch.tensor([[5, 17, 99, 3, 200, 41], [250, 1, 2, 3, 77, 6]])


@pytest.fixture(autouse=True)
def registered():
    doors.register()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_awq(tmp_path_factory.mktemp("int4"))


def noise(ours, theirs) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(tmp_path, family):
    folder = write_awq(tmp_path, family)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert sum(isinstance(m, Int4Linear) for m in model.modules()) == 7 * 3
    assert type(model.lm_head) is torch.nn.Linear
    assert model.dtype == torch.float32
    logits = model(IDS).logits
    assert logits.shape == (2, 6, 257)
    assert noise(logits, dequantized(folder)(IDS).logits) < EIGHT_BIT_NOISE
    assert model.generate(IDS, max_new_tokens=4, do_sample=False).shape[1] <= 10


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_exact_with_exact_kernels(tmp_path, family, monkeypatch):
    folder = write_awq(tmp_path, family)
    monkeypatch.setattr("halfbyte.kernels.cpu.pick.cpu_kernels", ReferenceKernels)
    model, theirs = AutoModelForCausalLM.from_pretrained(folder), dequantized(folder)
    torch.testing.assert_close(model(IDS).logits, theirs(IDS).logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_layers_left_as_they_were(tmp_path):
    folder = write_awq(tmp_path, untouched=("down_proj", "layers.1.self_attn"))
    model = AutoModelForCausalLM.from_pretrained(folder)
    left = {name for name, m in model.named_modules() if type(m) is torch.nn.Linear}
    assert left == {
        "lm_head",
        *(f"model.layers.{i}.mlp.down_proj" for i in range(3)),
        *(f"model.layers.1.self_attn.{n}_proj" for n in "qkvo"),
    }
    assert noise(model(IDS).logits, dequantized(folder)(IDS).logits) < EIGHT_BIT_NOISE


@torch.no_grad()
def test_without_a_head(folder):
    hidden = AutoModel.from_pretrained(folder)(IDS).last_hidden_state
    assert noise(hidden, dequantized(folder).model(IDS).last_hidden_state) < EIGHT_BIT_NOISE


@torch.no_grad()
def test_bfloat16_stays(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert model.dtype == model(IDS).logits.dtype == torch.bfloat16


def test_weights_are_held_once_and_not_saved(folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert not [name for name, _ in model.named_buffers() if "_proj" in name]
    with pytest.raises(OutputError, match=f"{folder} is the AWQ model"):
        model.save_pretrained(tmp_path / "out")
    with pytest.raises(IntegrationError, match=r"layers\.0\.self_attn\.q_proj was repacked"):
        model.state_dict()


def test_torch_has_its_threads_back_after_a_failure(folder):
    model, before = AutoModelForCausalLM.from_pretrained(folder), torch.get_num_threads()
    with pytest.raises(IndexError):
        model(torch.tensor([[9999]]))
    assert torch.get_num_threads() == before


def test_a_linear_alone():
    layer = Int4Linear(64, 16, 32, True, "here")
    with pytest.raises(IntegrationError, match="here was not built"):
        layer(torch.ones(1, 64))
    for tensor in (layer.qweight, layer.qzeros):
        tensor.fill_(0x11111111)
    layer.scales.fill_(0.5)
    layer.bias.copy_(torch.arange(16))
    layer.build(ReferenceKernels())
    first, second = layer(torch.ones(2, 3, 64)), layer(torch.zeros(1, 64))
    assert torch.equal(first, torch.arange(16.0).expand(2, 3, 16))  # (1 - 1) * 0.5
    assert second.shape == (1, 16)


@torch.no_grad()
def test_a_result_outlives_the_next_call(folder):
    layer = AutoModelForCausalLM.from_pretrained(folder).model.layers[0].mlp.up_proj
    first = layer(torch.ones(1, 64))
    kept = first.clone()
    layer(torch.zeros(1, 64))
    assert torch.equal(first, kept)


def with_tensors(folder, path, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    for file in folder.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def test_a_missing_tensor_is_named(folder, tmp_path):
    broken = with_tensors(folder, tmp_path, lambda t: t.pop("model.layers.1.mlp.up_proj.qzeros"))
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.qzeros is missing"):
        AutoModelForCausalLM.from_pretrained(broken)


def test_scales_that_are_not_finite(folder, tmp_path):
    broken = with_tensors(folder, tmp_path, lambda t: t["model.layers.2.mlp.up_proj.scales"].fill_(torch.inf))
    with pytest.raises(CheckpointError, match=r"layers\.2\.mlp\.up_proj\.scales"):
        AutoModelForCausalLM.from_pretrained(broken)


@pytest.mark.parametrize(("key", "value"), [("version", "gemv"), ("bits", 8), ("group_size", 40)])
def test_other_containers(folder, tmp_path, key, value):
    other = with_tensors(folder, tmp_path, lambda t: None)
    config = json.loads((other / "config.json").read_text())
    config["quantization_config"][key] = value
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError):
        AutoModelForCausalLM.from_pretrained(other)


@pytest.mark.parametrize("device_map", ["cuda", {"": 0}, {"model": "cpu", "lm_head": "cuda:0"}], ids=str)
def test_other_devices(device_map):
    with pytest.raises(IntegrationError, match="run on the CPU"):
        doors.check_device_map(device_map)


def test_registering_twice_and_taking_it_back():
    others = {name: q for name, q in auto.AUTO_QUANTIZER_MAPPING.items() if name != "awq"}
    doors.register()
    doors.register()
    assert auto.AUTO_QUANTIZER_MAPPING["awq"] is doors.Int4Quantizer
    doors.unregister()
    assert auto.AUTO_QUANTIZER_MAPPING["awq"].__name__ == "AwqQuantizer"
    doors.unregister()
    assert others.items() <= auto.AUTO_QUANTIZER_MAPPING.items()


def load_parts_anew():
    spec = importlib.util.find_spec("halfbyte.integrations.transformers_parts")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_another_transformers_is_named(monkeypatch):
    monkeypatch.delattr(auto, "AUTO_QUANTIZER_MAPPING")
    with pytest.raises(IntegrationError, match=rf"transformers {transformers.__version__} differs"):
        load_parts_anew()


def test_no_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install halfbyte\[transformers\]") as caught:
        load_parts_anew()
    assert isinstance(caught.value, HalfbyteError)


def test_halfbyte_runs_without_transformers():
    code = """import sys; sys.modules["transformers"] = None
import halfbyte
halfbyte.LLM, halfbyte.SamplingParams, halfbyte.quantize
try:
    halfbyte.AutoAWQForCausalLM
except halfbyte.HalfbyteError as error:
    print(error)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "transformers is not installed" in done.stdout
