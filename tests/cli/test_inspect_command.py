"""What inspect says of a model."""

import json
import shutil

from safetensors.torch import load_file, save_file


def test_a_model_that_is_not_quantized(run, tiny):
    result = run("inspect", tiny)
    assert result.exit_code == 0
    assert "not quantized, safetensors, 1 file" in result.stdout
    assert "at group size 32" in result.stdout
    assert "  {prompt}<|im_end|>" in result.stdout


def test_json_is_all_that_stdout_holds(run, quantized):
    result = run("inspect", quantized, "--verify", "--json")
    found = json.loads(result.stdout)
    assert found["quant_method"] == "awq"
    assert (found["bits"], found["group_size"]) == (4, 32)
    assert found["bits_per_linear_weight"] == 4 + 16 / 32 + 4 / 32
    assert found["bytes"] == sum(found["parts"].values()) == found["awq_bytes"]["32"]
    assert found["verified_tensors"] == 2 * (7 * 3 + 2) + 3
    assert found["prompt_template"] == "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"


def test_a_quantized_model(run, quantized):
    result = run("inspect", quantized, "--verify")
    assert "AWQ gemm, 4 bits, group size 32, safetensors, 1 file" in result.stdout
    assert "verified: 49 tensors" in result.stdout


def test_the_types_of_a_gguf_file_are_told(run, smollm2_source):
    assert "format        210 Q4_1, 1 Q8_0, GGUF, 1 file" in run("inspect", smollm2_source.path).stdout


def test_sizes_that_the_container_cannot_hold_are_told_with_the_repository(run, quantized, tmp_path):
    folder = shutil.copytree(quantized, tmp_path / "odd")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": config["hidden_size"] + 8}))
    result = run("inspect", folder)
    assert result.exit_code == 1
    assert f"config.json of {folder}: model.layers.0.self_attn.q_proj has " in result.stderr


def test_a_model_without_a_template(run, plain):
    assert "none; give plain prompts with --raw" in run("inspect", plain).stdout


def test_damage_is_an_error(run, damaged):
    result = run("inspect", damaged)
    assert result.exit_code == 1
    assert "model.safetensors" in result.stderr


def test_verify_names_the_layer_that_is_not_finite(run, damaged, tiny):
    weights = load_file(tiny / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    assert run("inspect", damaged).exit_code == 0
    result = run("inspect", damaged, "--verify")
    assert result.exit_code == 1
    assert "model.layers.1.mlp.up_proj.weight (layer 1)" in result.stderr
