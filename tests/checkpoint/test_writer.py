"""A repository appears whole or not at all."""

from __future__ import annotations

import json
from collections import namedtuple

import pytest
import torch
from safetensors import safe_open

from halfbyte.checkpoint import writer as writer_module
from halfbyte.checkpoint.writer import RepositoryWriter
from halfbyte.errors import OutputError

CONFIG = {"model_type": "llama"}


def write(out, tensors, max_shard_size=10**9, overwrite=False):
    with RepositoryWriter(out, max_shard_size=max_shard_size, overwrite=overwrite) as w:
        for name, tensor in tensors.items():
            w.add(name, tensor)
        w.finish(CONFIG, {"tokenizer.json": b"{}", "meta-license/LICENSE.txt": b"terms"})


def read(path):
    with safe_open(path, "pt") as f:
        assert f.metadata() == {"format": "pt"}
        return {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118


def test_one_shard_has_the_plain_name_and_no_index(tmp_path):
    out = tmp_path / "deep" / "out"
    write(out, {"a": torch.ones(3)})
    assert torch.equal(read(out / "model.safetensors")["a"], torch.ones(3))
    names = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert names == {"model.safetensors", "tokenizer.json", "config.json", "meta-license/LICENSE.txt"}


def test_shards_stay_below_their_size_and_the_index_finds_every_tensor(tmp_path):
    tensors = {f"t{i}": torch.full((100,), float(i)) for i in range(5)}  # 400 bytes each
    write(tmp_path / "out", tensors, max_shard_size=900)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 2000}
    assert set(index["weight_map"].values()) == {f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)}
    for name, file in index["weight_map"].items():
        assert torch.equal(read(tmp_path / "out" / file)[name], tensors[name])


def test_a_failure_leaves_nothing(tmp_path):
    def fail() -> None:
        with RepositoryWriter(tmp_path / "out", max_shard_size=1) as w:
            w.add("a", torch.ones(3))
            w.add("b", torch.ones(3))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_hidden_does_not_load_and_is_replaced(tmp_path):
    w = RepositoryWriter(tmp_path / "out", max_shard_size=1).__enter__()
    w.add("a", torch.ones(3))
    w.add("b", torch.ones(3))  # the first shard is on disk now, and the process "dies" here
    assert not (tmp_path / "out").exists()
    assert [p.name for p in tmp_path.iterdir()] == [".out.part"]
    assert not (tmp_path / ".out.part" / "config.json").exists()
    write(tmp_path / "out", {"c": torch.ones(1)})
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_output_that_holds_something_is_kept_unless_told_otherwise(tmp_path):
    out = tmp_path / "out"
    write(out, {"a": torch.ones(3)})
    with pytest.raises(OutputError, match="--overwrite"):
        RepositoryWriter(out, max_shard_size=1).check(0)
    RepositoryWriter(out, max_shard_size=1, overwrite=True).check(0)
    write(out, {"b": torch.ones(3)}, overwrite=True)
    assert set(read(out / "model.safetensors")) == {"b"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_file_in_the_way_and_a_full_disk_are_told_before_anything_is_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="already holds"):
        RepositoryWriter(tmp_path / "file", max_shard_size=1, overwrite=True).check(0)
    usage = namedtuple("usage", "total used free")(10**9, 10**9 - 5 * 10**7, 5 * 10**7)
    monkeypatch.setattr(writer_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match=r"0\.05 GB free"):
        RepositoryWriter(tmp_path / "x" / "out", max_shard_size=1).check(10**8)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
