"""The quantize command."""

import json

from halfbyte.quantize import QuantizeOptions


def test_writes_a_repository_and_shows_what_was_won(run, tiny, text, tmp_path):
    out = tmp_path / "out"
    result = run("quantize", tiny, out, "--calib", text, "--samples", 2, "--seq-len", 32, "--max-shard-size", "20kB")
    assert result.exit_code == 0, result.stderr
    assert "self_attn.q_proj" in result.stdout
    assert f"{out}: " in result.stdout
    assert "group size 32" in result.stderr
    assert len(list(out.glob("model-*.safetensors"))) > 1


def test_every_layer_can_be_shown(run, tiny, text, tmp_path):
    result = run("quantize", tiny, tmp_path / "o", "--calib", text, "--samples", 2, "--seq-len", 32, "--layers")
    assert "layers.1.mlp.down_proj" in result.stdout.replace("\n", "")


def test_json_is_all_that_stdout_holds(run, tiny, text, tmp_path):
    out = tmp_path / "out"
    result = run("quantize", tiny, out, "--calib", text, "--samples", 2, "--seq-len", 32, "--json", "--group-size", 32)
    report = json.loads(result.stdout)
    assert report["group_size"] == 32
    assert len(report["layers"]) == 2 * 7
    assert report.pop("seconds") > 0
    assert report.pop("resumed_blocks") == 0
    assert report == json.loads((out / "quantize_report.json").read_text())


def test_the_defaults_are_those_of_the_library(run):
    defaults = QuantizeOptions()
    shown = run("quantize", "--help").stdout
    for value in (
        defaults.bits,
        defaults.group_size,
        defaults.calib,
        defaults.samples,
        defaults.seq_len,
        defaults.seed,
    ):
        assert f"[default: {value}]" in shown


def test_a_group_size_that_does_not_divide_leaves_nothing(run, tiny, text, tmp_path):
    result = run("quantize", tiny, tmp_path / "out", "--calib", text, "--group-size", 64)
    assert result.exit_code == 1
    assert "group size 64 does not divide the 32 inputs" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_out_that_holds_something_is_left_alone(run, tiny, text, tmp_path):
    (tmp_path / "precious").write_text("x")
    options = ("--calib", text, "--samples", 2, "--seq-len", 32)
    result = run("quantize", tiny, tmp_path, *options)
    assert result.exit_code == 1
    assert "--overwrite" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]
