"""halfbyte compare: figures, what is kept, what is left out."""

import json

import pytest

from halfbyte.evaluate.compare import METHODS

HERE = [method for method in ("rtn", "default") if method in METHODS]  # two, where the quantizer has efforts
OPTIONS = ("--samples", 4, "--seq-len", 64, "--windows", 2, "--context", 48)


@pytest.fixture(scope="module")
def compared(run, tiny, text, tmp_path_factory):
    """Two methods at two group sizes, of which 128 does not divide the tiny model's layers."""
    out = tmp_path_factory.mktemp("compared") / "all"
    arguments = ["compare", tiny, "--text", text, "--calib", text, "--out", out, *OPTIONS]
    arguments += ["--methods", ",".join(HERE), "--group-sizes", "128,32", "--json"]
    return arguments, run(*arguments), out


def test_every_cell_has_its_figures_or_a_reason(compared, quantized):
    _, result, out = compared
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found == json.loads((out / "comparison.json").read_text())
    cells = {(cell["method"], cell["group_size"]): cell for cell in found["cells"]}
    assert set(cells) == {(m, g) for m in HERE for g in (128, 32)}
    for method in HERE:
        assert cells[method, 128]["skipped"].startswith("128 does not divide the 32 inputs of model.layers.0.")
        cell = cells[method, 32]
        assert cell["kl_divergence"] > 0
        assert 0 < cell["top1_agreement"] <= 1
        assert cell["bytes"] > 48 * 32 * 2  # more than its embedding
    assert cells[HERE[-1], 32]["kl_divergence"] <= cells[HERE[0], 32]["kl_divergence"]
    assert found["protocol"]["predictions"] == 2 * 47
    assert not (out / "model").exists()
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_figures_are_those_of_eval_perplexity(compared, run, tiny, text, tmp_path):
    _, result, _ = compared
    cell = next(c for c in json.loads(result.stdout)["cells"] if (c["method"], c["group_size"]) == ("default", 32))
    out = tmp_path / "awq"
    made = run("quantize", tiny, out, "--calib", text, "--samples", 4, "--seq-len", 64, "--group-size", 32)
    assert made.exit_code == 0, made.stderr
    measured = run(
        "eval", "perplexity", out, "--text", text, "--context", 48, "--windows", 2, "--reference", tiny, "--json"
    )
    figures = json.loads(measured.stdout)
    for name in ("perplexity", "kl_divergence", "top1_agreement"):
        assert cell[name] == pytest.approx(figures[name], rel=1e-4), name


def test_what_is_finished_is_not_computed_again(compared, run):
    arguments, _, out = compared
    path = out / "cells" / "default-g32.json"
    figures = json.loads(path.read_text())
    path.write_text(json.dumps(figures | {"perplexity": 123.0}))
    reference = out / "reference.safetensors"
    written = reference.stat().st_mtime_ns
    again = run(*arguments)
    assert "default g32: perplexity 123.000 (kept from an earlier run)" in again.stderr
    path.unlink()
    found = json.loads(run(*arguments).stdout)["cells"]
    cell = next(c for c in found if (c["method"], c["group_size"]) == ("default", 32))
    assert cell["kl_divergence"] == pytest.approx(figures["kl_divergence"], rel=1e-6)
    assert reference.stat().st_mtime_ns == written


def test_another_protocol_needs_another_folder(compared, run):
    arguments, _, out = compared
    result = run(*[48 if a == 64 else a for a in arguments])
    assert result.exit_code == 1
    assert f"{out} holds a comparison in which seq_len is 64, not 48; choose another --out" in result.stderr.replace(
        "\n", " "
    )


def test_the_table_and_the_protocol_under_it(compared, run):
    arguments, _, _ = compared
    result = run(*[a for a in arguments if a != "--json"])
    assert "left out" in result.stdout
    for piece in (
        "2 windows of 48 tokens, 94 predictions, float32",
        "4 samples of 64 tokens, seed 0",
        "group size 128 left out",
    ):
        assert piece in result.stdout


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (("--methods", "default,magic"), "--methods has 'magic'; there are "),
        (("--group-sizes", "0"), "--group-sizes has 0; they must be positive"),
    ],
)
def test_what_is_not_known_is_said(run, tiny, text, tmp_path, changes, says):
    result = run("compare", tiny, "--text", text, "--out", tmp_path / "x", *changes)
    assert result.exit_code == 1
    assert says in result.stderr


def test_a_folder_of_other_things_is_left_alone(run, tiny, text, tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    result = run("compare", tiny, "--text", text, "--out", tmp_path, "--no-plot", *OPTIONS)
    assert result.exit_code == 1
    assert "holds other things than a comparison" in result.stderr


def test_a_quantized_model_is_refused(run, quantized, text, tmp_path):
    result = run("compare", quantized, "--text", text, "--out", tmp_path / "x", *OPTIONS)
    assert result.exit_code == 1
    assert "is already quantized" in result.stderr
