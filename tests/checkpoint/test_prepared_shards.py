"""Weight files made at their final size, which tensors then come to in any order."""

from __future__ import annotations

import errno
import os

import pytest
import torch
from safetensors.torch import load_file

from halfbyte.checkpoint.prepared_shards import CANNOT, PreparedShards, fallocate
from halfbyte.checkpoint.shard_writer import Kind
from halfbyte.checkpoint.writer import RepositoryWriter
from halfbyte.errors import OutputError

TENSORS = {
    "b": torch.arange(12).view(3, 4).int(),
    "a": torch.randn(5).half(),
    "c": torch.randn(2, 3).half(),
    "none": torch.zeros(0, 4),
    "d": torch.arange(7),
}
KINDS = {name: Kind(t.dtype, tuple(t.shape)) for name, t in TENSORS.items()}


def prepared(folder, most=10**6):
    folder.mkdir(exist_ok=True)
    return PreparedShards(folder, KINDS, most)


@pytest.mark.parametrize("most", [1, 60, 10**6])
def test_the_repository_is_that_of_tensors_added_one_by_one(tmp_path, most):
    shards = prepared(tmp_path / "work", most)
    assert not shards.open()
    for name in reversed(TENSORS):
        shards.write({name: TENSORS[name]})
    shards.close()
    with RepositoryWriter(tmp_path / "one", max_shard_size=most) as writer:
        for name, tensor in TENSORS.items():
            writer.add(name, tensor)
        writer.finish({}, {})
    with RepositoryWriter(tmp_path / "other", max_shard_size=most) as writer:
        for path, held in zip(shards.paths, shards.shards, strict=True):
            writer.take(path, held)
        writer.finish({}, {})
    one, other = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("one", "other"))
    assert one == other
    read = {n: t for p in (tmp_path / "other").glob("*.safetensors") for n, t in load_file(p).items()}
    assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())


def test_what_was_written_is_there_when_they_are_opened_again(tmp_path):
    shards = prepared(tmp_path / "work")
    shards.open()
    checksums = shards.write(TENSORS)
    shards.sync(checksums)
    shards.close()
    again = prepared(tmp_path / "work")
    assert again.open()
    assert all(torch.equal(again.read(name), tensor) for name, tensor in TENSORS.items())
    assert all(again.holds(name, checksum) for name, checksum in checksums.items())
    again.write({"a": TENSORS["a"] + 1})
    assert not again.holds("a", checksums["a"])


@pytest.mark.parametrize("damage", ["shorter", "another header", "gone"])
def test_files_that_are_not_these_are_made_anew(tmp_path, damage):
    shards = prepared(tmp_path / "work", 60)
    shards.open()
    shards.close()
    path, data = shards.paths[1], shards.paths[1].read_bytes()
    path.write_bytes({"shorter": data[:-1], "another header": data.replace(b"dtype", b"dtypo"), "gone": b""}[damage])
    if damage == "gone":
        path.unlink()
    again = prepared(tmp_path / "work", 60)
    assert not again.open()
    assert prepared(tmp_path / "work", 60).open()


def test_a_disk_that_is_too_small_is_noticed_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr("halfbyte.checkpoint.prepared_shards.fallocate", lambda *_: errno.ENOSPC)
    with pytest.raises(OutputError, match="No space left"):
        prepared(tmp_path / "work").open()


def test_the_room_is_taken_at_once(tmp_path):
    path = tmp_path / "file"
    with path.open("wb") as file:
        failed = fallocate(file.fileno(), 2**20)
        assert failed in (0, *CANNOT)
        assert failed or os.fstat(file.fileno()).st_blocks * 512 >= 2**20
        assert fallocate(file.fileno(), -1) == errno.EINVAL


def test_a_file_system_without_preallocation_or_second_names_does_too(tmp_path, monkeypatch):
    def cannot(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr("halfbyte.checkpoint.prepared_shards.fallocate", lambda *_: errno.EOPNOTSUPP)
    monkeypatch.setattr(os, "link", cannot)
    shards = prepared(tmp_path / "work")
    shards.open()
    shards.write(TENSORS)
    shards.close()
    with RepositoryWriter(tmp_path / "out", max_shard_size=10**6) as writer:
        writer.take(shards.paths[0], shards.shards[0])
        writer.finish({}, {})
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["b"], TENSORS["b"])
