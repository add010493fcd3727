"""AWQ, GPTQ and compressed-tensors: quantized from floats, and repacked from one another without a change."""

import pytest
import torch
from small_tokenizers import byte_level_files
from tiny_checkpoints import LLAMA, random_tensors, write_model

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.repack import is_symmetric
from halfbyte.convert import ConvertOptions, convert
from halfbyte.errors import OutputError, QuantizeError

OPTIONS = ConvertOptions(samples=2, seq_len=64)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "m"
    write_model(folder, LLAMA | {"vocab_size": 604}, random_tensors(LLAMA | {"vocab_size": 604}))
    for name, contents in byte_level_files().items():
        (folder / name).write_bytes(contents)
    return folder


@pytest.fixture(scope="module")
def awq(plain, tmp_path_factory):
    out = tmp_path_factory.mktemp("awq") / "m-AWQ"
    convert(plain, out, "awq:4bit-32g", OPTIONS)
    return out


def weights(folder):
    checkpoint = Checkpoint(open_source(folder))
    found = {prefix: checkpoint.stored(prefix) for prefix in checkpoint.linears}
    return {prefix: w if isinstance(w, torch.Tensor) else w.dequantize() for prefix, w in found.items()}


@pytest.mark.parametrize("spec", ["gptq:4bit-32g", "gptq:4bit-32g-v2", "compressed-tensors:4bit-32g"])
def test_from_floats_they_hold_what_awq_holds(plain, awq, tmp_path, spec):
    report = convert(plain, tmp_path / "out", spec, OPTIONS)
    assert Checkpoint(open_source(tmp_path / "out")).container.name == spec.partition(":")[0]
    ours = weights(tmp_path / "out")
    for prefix, weight in weights(awq).items():
        assert torch.equal(ours[prefix], weight), prefix
    assert report.format == spec
    assert all(0 < loss.relative_error < 1 for loss in report.losses)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("spec", ["gptq:4bit-32g", "gptq:4bit-v2", "compressed-tensors:4bit"])
def test_there_and_back_without_a_change(awq, tmp_path, spec):
    report = convert(awq, tmp_path / "there", spec)
    assert report.losses == []
    convert(tmp_path / "there", tmp_path / "back", "awq:4bit-32g")
    back = weights(tmp_path / "back")
    for prefix, weight in weights(awq).items():
        assert torch.equal(back[prefix], weight), prefix


@pytest.mark.parametrize("spec", ["gptq:3bit-32g", "gptq:4bit-64g", "gptq:4bit-32g-actorder", "gptq:4bit-sym"])
def test_what_is_rounded_is_not_rounded_again(awq, tmp_path, spec):
    with pytest.raises(QuantizeError, match=r"is AWQ gemm, 4 bits, group size 32, and .* would only lose"):
        convert(awq, tmp_path / "out", spec)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("bits", "group", "flags"),
    [
        (2, 32, "-actorder-sym-v2"),
        (3, 32, "-sym"),
        (3, -1, "-actorder"),
        (4, 32, "-actorder"),
        (8, -1, "-sym"),
        (8, 32, ""),
    ],
)
def test_gptq_of_every_kind_from_floats(plain, tmp_path, bits, flags, group):
    report = convert(plain, tmp_path / "out", f"gptq:{bits}bit-{group}g{flags}", OPTIONS)
    assert report.format == f"gptq:{bits}bit-{group}g{flags}"
    checkpoint = Checkpoint(open_source(tmp_path / "out"))
    own = checkpoint.container
    assert (own.bits, own.group_size, own.desc_act, own.sym) == (bits, group, "actorder" in flags, "sym" in flags)
    assert own.checkpoint_format == ("gptq_v2" if "v2" in flags else "gptq")
    ordered = 0
    for prefix in checkpoint.linears:
        weight = checkpoint.stored(prefix)
        assert (weight.z == 1 << (bits - 1)).all() if own.sym else (weight.z.any() and weight.z.unique().numel() > 1)
        ordered += weight.g_idx is not None
    assert (ordered > 0) == (own.desc_act and group == 32)
    losses = [loss.relative_error for loss in report.losses]
    assert all(0 < loss < {2: 1, 3: 0.5, 4: 0.25, 8: 0.02}[bits] for loss in losses)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("awq:3bit-32g", "awq is written with 4"),
        ("compressed-tensors:4bit-32g-sym", "without activation order; gptq can"),
        ("compressed-tensors:4bit-32g-actorder", "are made for gptq only"),
    ],
)
def test_what_the_quantizer_does_not_make(plain, tmp_path, spec, why):
    with pytest.raises(QuantizeError, match=why):
        convert(plain, tmp_path / "out", spec)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("spec", ["gptq", "gptq:5bit", "awq:4bit-32g-sym", "compressed-tensors:4bit-32g-v2"])
def test_specs_that_are_none(plain, tmp_path, spec):
    with pytest.raises(QuantizeError, match="is not a format; write"):
        convert(plain, tmp_path / "out", spec)


def test_a_place_that_is_taken_is_seen_before_the_work(plain, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("x")
    with pytest.raises(OutputError, match="--overwrite"):
        convert(plain, tmp_path / "out", "gptq:4bit-32g", OPTIONS)
    assert (tmp_path / "out/mine").read_text() == "x"


def test_what_is_symmetric_is_said_to_be(plain, tmp_path):
    """Programs have faster kernels for it, and some load nothing else; so every container on the way says it."""
    specs = ["gptq:4bit-32g-sym", "compressed-tensors:4bit-32g", "gptq:4bit-32g-v2", "gptq:4bit-32g-sym"]
    place = plain
    for n, spec in enumerate(specs):
        report = convert(place, tmp_path / str(n), spec, OPTIONS)
        assert not [note for note in report.notes if "GPTQModel" in note]
        place = tmp_path / str(n)
        assert is_symmetric(Checkpoint(open_source(place)).container)
    first, last = (Checkpoint(open_source(tmp_path / n)) for n in "03")
    for prefix in first.linears:
        assert torch.equal(first.stored(prefix).q, last.stored(prefix).q)
    convert(place, tmp_path / "awq", "awq:4bit-32g")
    asymmetric = convert(tmp_path / "awq", tmp_path / "back", "gptq:4bit-32g")  # AWQ's container does not say
    assert "write -v2 or -sym" in asymmetric.notes[-1]
