"""Folders: every layout reads, and each kind of damage is named."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file
from tiny_checkpoints import write_config, write_model, write_sharded

from halfbyte.checkpoint.open import open_source
from halfbyte.errors import CheckpointError, ConfigError, HalfbyteError, SourceError

INDEX = "model.safetensors.index.json"
SECOND = "model-00002-of-00002.safetensors"


def same(source, tensors):
    infos = source.tensors()
    assert infos.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert infos[name].shape == tuple(tensor.shape)
        assert infos[name].dtype == tensor.dtype
        assert infos[name].nbytes == tensor.numel() * tensor.itemsize
        assert torch.equal(source.read(name), tensor)


def test_single_file(tmp_path):
    tensors = write_model(tmp_path)
    source = open_source(tmp_path)
    same(source, tensors)
    assert source.folder == tmp_path
    assert source.spec == str(tmp_path)
    assert source.origin("model.norm.weight") == str(tmp_path / "model.safetensors")


@pytest.mark.parametrize("index", [True, False])
def test_shards_with_and_without_index(tmp_path, index):
    tensors = write_sharded(tmp_path, index=index)
    source = open_source(str(tmp_path))
    same(source, tensors)
    assert source.origin("lm_head.weight").endswith(SECOND)


def test_one_safetensors_file_of_any_name(tmp_path):
    tensors = write_model(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "awq_model.safetensors")
    same(open_source(tmp_path), tensors)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_weights(tmp_path, zipped):
    tensors = write_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    same(open_source(tmp_path), tensors)


def test_pickled_shards(tmp_path):
    tensors = write_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    weight_map = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        torch.save({name: t for name, t in tensors.items() if weight_map[name] == file}, tmp_path / file)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    same(open_source(tmp_path), tensors)


def test_safetensors_are_preferred_to_pickles(tmp_path):
    tensors = write_model(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"not looked at")
    same(open_source(tmp_path), tensors)


class Evil:
    """A pickle of this calls print when it is loaded carelessly."""

    def __reduce__(self):
        return (print, ("code ran",))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, capsys):
    write_config(tmp_path, {})
    torch.save({"a": torch.ones(2), "b": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: refused.*safetensors"):
        open_source(tmp_path).tensors()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        open_source(tmp_path).tensors()
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("keep", [0, 4, 100, 3000])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_truncated_weights(tmp_path, name, keep):
    tensors = write_model(tmp_path)
    if name.endswith(".bin"):
        (tmp_path / "model.safetensors").unlink()
        torch.save(tensors, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) - 1 if keep == 3000 else keep])
    with pytest.raises(CheckpointError, match=name):
        open_source(tmp_path).tensors()


def test_a_truncated_shard_says_what_it_should_have(tmp_path):
    write_sharded(tmp_path)
    path = tmp_path / SECOND
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(CheckpointError, match=rf"{SECOND}: truncated.*{len(whole)} bytes.*has {len(whole) - 10}"):
        open_source(tmp_path).tensors()


HEADERS = [
    b"{",
    b"[]",
    b'{"a": 3}',
    b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
    b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
    b'{"a": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}}',
    b'{"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}',
    b'{"a": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}}',
    b'{"a": {"dtype": "F32", "shape": [1e99], "data_offsets": [0, 8]}}',
    b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}',
    b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
    b"\xff\xfe",
    b"[" * 100_000,
]


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_damaged_safetensors_headers(tmp_path, header):
    write_config(tmp_path, {})
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_source(tmp_path).tensors()


def test_a_header_that_would_be_huge(tmp_path):
    write_config(tmp_path, {})
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 16)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        open_source(tmp_path).tensors()


def test_missing_shard_with_and_without_index(tmp_path):
    write_sharded(tmp_path)
    (tmp_path / SECOND).unlink()
    with pytest.raises(CheckpointError, match=rf"{INDEX}.*not there: {SECOND}"):
        open_source(tmp_path).tensors()
    (tmp_path / INDEX).unlink()
    with pytest.raises(CheckpointError, match="whole set"):
        open_source(tmp_path).tensors()


def test_index_names_a_tensor_that_its_file_lacks(tmp_path):
    write_sharded(tmp_path)
    index = json.loads((tmp_path / INDEX).read_text())
    index["weight_map"]["model.norm.weight2"] = SECOND
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=rf"{INDEX}.*norm\.weight2.*{SECOND}"):
        open_source(tmp_path).tensors()


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/../../b", "..\\x", "C:x", "", ".", "a\0b"])
def test_names_that_escape(tmp_path, name):
    write_sharded(tmp_path / "m")
    (tmp_path / "m" / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    source = open_source(tmp_path / "m")
    with pytest.raises(SourceError, match="not a plain file name"):
        source.tensors()
    with pytest.raises(SourceError, match="not a plain file name"):
        source.file(name)


def test_links_out_of_the_folder_are_refused_and_links_within_are_not(tmp_path):
    folder = tmp_path / "m"
    tensors = write_model(folder)
    (folder / "weights.data").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("weights.data")
    same(open_source(folder), tensors)
    (folder / "weights.data").rename(tmp_path / "weights.data")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(tmp_path / "weights.data")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "notes.txt").symlink_to(tmp_path / "secret.txt")
    source = open_source(folder)
    with pytest.raises(SourceError, match="outside the folder"):
        source.tensors()
    with pytest.raises(SourceError, match="outside the folder"):
        source.file("notes.txt")
    assert "notes.txt" not in source.files()


def test_the_same_tensor_twice(tmp_path):
    write_sharded(tmp_path, index=False)
    save_file({"model.norm.weight": torch.ones(32)}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is both in .*00001.* and in .*00002"):
        open_source(tmp_path).tensors()


def test_no_weights_no_config_and_unreadable_config(tmp_path):
    with pytest.raises(SourceError, match=r"no config\.json"):
        _ = open_source(tmp_path).config
    (tmp_path / "config.json").write_text('{\n "a": 1,\n oops\n}')
    with pytest.raises(ConfigError, match=r"config\.json: not valid JSON at line 3"):
        _ = open_source(tmp_path).config
    (tmp_path / "config.json").write_bytes(b"\xff{}")
    with pytest.raises(ConfigError, match="UTF-8"):
        _ = open_source(tmp_path).config
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ConfigError, match="expected a JSON object, found a list"):
        _ = open_source(tmp_path).config
    with pytest.raises(SourceError, match="no weights"):
        open_source(tmp_path).tensors()
    (tmp_path / "x.gguf").write_bytes(b"")
    with pytest.raises(SourceError, match=r"x\.gguf"):
        open_source(tmp_path).tensors()


def test_small_files(tmp_path):
    write_model(tmp_path)
    for name in ("tokenizer.json", "LICENSE", "meta-license/LICENSE.txt", ".git/config", "onnx/model.onnx", INDEX):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    source = open_source(tmp_path)
    assert source.files() == ["LICENSE", "config.json", "meta-license/LICENSE.txt", "tokenizer.json"]
    assert source.file("meta-license/LICENSE.txt") == b"meta-license/LICENSE.txt"
    assert source.file("nothing.json") is None
    assert source.file("model.safetensors") is None


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("no-such-thing", "no such file or folder"),
        ("./no/such/thing", "no such file or folder"),
        ("/no/such/thing", "no such file or folder"),
        ("org/model.gguf", "no such file or folder"),
        ("", "no model given"),
        ("a\0b", "no model given"),
        (__file__, r"not a \.gguf file"),
    ],
)
def test_specs_that_name_nothing(spec, says):
    with pytest.raises(SourceError, match=says):
        open_source(spec)


def test_one_file_of_a_model_is_not_a_model(tmp_path):
    write_model(tmp_path)
    with pytest.raises(HalfbyteError, match=f"give the folder that holds it, {tmp_path}"):
        open_source(tmp_path / "model.safetensors")
