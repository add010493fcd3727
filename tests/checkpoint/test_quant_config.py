"""AWQ settings in either spelling, and what is not AWQ or not gemm."""

import json

import pytest
from tiny_checkpoints import AWQ_BLOCK, LLAMA, write_config

from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.quant_config import AwqConfig, config_json_block, legacy_json, read_awq
from halfbyte.errors import ConfigError

LEGACY = {"zero_point": True, "q_group_size": 128, "w_bit": 4, "version": "GEMM"}


def read(folder, block=None, legacy=None):
    write_config(folder, LLAMA if block is None else LLAMA | {"quantization_config": block})
    if legacy is not None:
        (folder / "quant_config.json").write_text(json.dumps(legacy))
    return read_awq(open_source(folder))


def test_an_unquantized_model_has_none(tmp_path):
    assert read(tmp_path) is None


@pytest.mark.parametrize(
    "block",
    [
        AWQ_BLOCK | {"group_size": 128, "modules_to_not_convert": None},
        {"quant_method": "awq", "w_bit": 4, "q_group_size": 128, "zero_point": True, "version": "GEMM"},
        LEGACY,
        {"quant_method": "awq"},
        {"quant_method": "awq", "bits": 4, "group_size": 128, "format": "gemm", "backend": "auto"},
    ],
)
def test_spellings_of_config_json(tmp_path, block):
    assert read(tmp_path, block) == AwqConfig()


def test_the_old_file(tmp_path):
    assert read(tmp_path, legacy=LEGACY) == AwqConfig()


def test_what_we_write_is_what_we_read(tmp_path):
    config = AwqConfig(group_size=32, modules_to_not_convert=("mlp.gate", "layers.1."))
    assert read(tmp_path, config_json_block(config), legacy_json(config)) == config
    assert config_json_block(AwqConfig()) == AWQ_BLOCK | {"group_size": 128, "modules_to_not_convert": None}
    assert legacy_json(AwqConfig()) == LEGACY
    assert not config.converts("model.layers.0.mlp.gate_proj")
    assert config.converts("model.layers.0.mlp.up_proj")


@pytest.mark.parametrize("method", ["bitsandbytes", "fp8", "hqq"])
def test_other_methods(tmp_path, method):
    with pytest.raises(ConfigError, match=rf"config\.json of .*\({method}\), which cannot be read yet; what can: AWQ"):
        read(tmp_path, {"quant_method": method, "bits": 4})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"version": "marlin"}, "awq in the marlin version"),
        ({"version": 2}, "awq in the 2 version"),
        ({"bits": 8}, "awq with 8 bits"),
        ({"bits": "4"}, r"quantization_config\.bits must be an integer"),
        ({"group_size": 0}, r"quantization_config\.group_size must be positive"),
        ({"group_size": -2}, r"quantization_config\.group_size must be between -1"),
        ({"zero_point": "yes"}, r"quantization_config\.zero_point must be true or false"),
        ({"modules_to_not_convert": "lm_head"}, "modules_to_not_convert must be a list of strings"),
        ({"quant_method": None}, "unnamed"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, changes, says):
    with pytest.raises(ConfigError, match=says):
        read(tmp_path, AWQ_BLOCK | changes)


def test_two_files_that_contradict_each_other(tmp_path):
    with pytest.raises(ConfigError, match="contradict each other"):
        read(tmp_path, AWQ_BLOCK, LEGACY | {"q_group_size": 64})


def test_an_unreadable_old_file(tmp_path):
    (tmp_path / "quant_config.json").write_text("{\n,}")
    with pytest.raises(ConfigError, match=r"quant_config\.json .*line 2"):
        read(tmp_path)
