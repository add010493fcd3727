"""A run that was stopped, at whatever moment, goes on and ends in the very bytes of one that was not."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_sources import a_source

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.prepared_shards import PreparedShards
from halfbyte.checkpoint.shards import SafetensorsShard
from halfbyte.checkpoint.writer import RepositoryWriter
from halfbyte.errors import GateError, HalfbyteError, OutputError, QuantizeError
from halfbyte.quantize import QuantizeOptions, quantize
from halfbyte.quantize.driver import Silent
from halfbyte.quantize.work import WorkFolder

SMALL = {"samples": 4, "seq_len": 32}


@pytest.fixture(autouse=True)
def a_short_text(tmp_path_factory, monkeypatch):
    text = tmp_path_factory.mktemp("calib") / "text.txt"
    text.write_text("".join(f"{i} bottles of beer on the wall. " for i in range(400)))
    monkeypatch.setitem(SMALL, "calib", str(text))


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def whole(source, out, **options):
    """The files of an uninterrupted run; OUT is then moved away, since the card names it."""
    quantize(source, out, QuantizeOptions(**{**SMALL, **options}))
    files = contents(out)
    out.rename(out.parent / "uninterrupted")
    return files


class Stop(Silent):
    """Stops a run as Ctrl-C would, after so many blocks or steps of tuning."""

    def __init__(self, blocks=None, steps=None):
        self.blocks, self.steps, self.seen = blocks, steps, []

    def block(self, done, total):
        self.seen.append(done)
        if done == self.blocks:
            raise KeyboardInterrupt

    def tuning(self, done, total):
        self.seen.append(done)
        if done == self.steps:
            raise KeyboardInterrupt


# Imports once, then forks a child a delay: the child quantizes, and is killed when its time is over.
KILLER = """
import json, os, signal, sys, time
import torch
torch.set_num_threads(1)
from halfbyte.quantize import QuantizeOptions, quantize
source, out, delays = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
ended = []
for delay in delays:
    pid = os.fork()
    if pid == 0:
        given = json.loads(sys.argv[4])
        quantize(source, out, QuantizeOptions(**given))
        os._exit(0)
    end = time.monotonic() + delay
    ready = 0
    while not ready and time.monotonic() < end:
        time.sleep(0.002)
        ready, status = os.waitpid(pid, os.WNOHANG)
    if not ready:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    work = os.path.join(os.path.dirname(out), ".out.work")
    kept = os.listdir(work) if os.path.exists(work) else []
    ended.append([status, sorted(n for n in kept if not n.endswith(".tmp"))])
    print(json.dumps(ended[-1]), flush=True)
    if status == 0:
        break
"""


@pytest.mark.parametrize(
    "options",
    [
        {"effort": "best"},
        {"effort": "best", "format": "compressed-tensors", "max_shard_size": 60_000},
        {"effort": "default", "format": "gptq", "max_shard_size": 60_000},
    ],
    ids=["best", "best, compressed-tensors in shards", "default, GPTQ in shards"],
)
def test_killed_at_many_moments(tmp_path, options):
    source = a_source(tmp_path / "source", num_hidden_layers=5)
    expected = whole(source, tmp_path / "out", **options)
    assert ("model.safetensors.index.json" in expected) == ("max_shard_size" in options)
    delays = [0.05 * 1.3**i for i in range(16)] + [100]
    given = json.dumps({**SMALL, **options})
    command = [sys.executable, "-c", KILLER, str(source), str(tmp_path / "out"), json.dumps(delays), given]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    runs = [json.loads(line) for line in result.stdout.splitlines()]
    assert runs[-1][0] == 0
    killed = [kept for status, kept in runs if status]
    assert any(any(name.startswith("block") for name in kept) for kept in killed), "killed before anything was kept"
    assert contents(tmp_path / "out") == expected
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("fmt", ["awq", "compressed-tensors"])
def test_stopped_while_what_was_learnt_goes_into_the_blocks(tmp_path, monkeypatch, fmt):
    source = a_source(tmp_path / "source", num_hidden_layers=3)
    options = {**SMALL, "effort": "best", "format": fmt}
    expected = whole(source, tmp_path / "out", **options)
    write, seen = PreparedShards._write, []

    def stopping(self, name, tensor):
        if (tmp_path / ".out.work" / "learnt.safetensors").exists():
            seen.append(name)
            if len(seen) % 4 == 0:
                raise KeyboardInterrupt
        return write(self, name, tensor)

    with monkeypatch.context() as patch:
        patch.setattr(PreparedShards, "_write", stopping)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                quantize(source, tmp_path / "out", QuantizeOptions(**options))
    rest = Stop()
    quantize(source, tmp_path / "out", QuantizeOptions(**options), progress=rest)
    assert rest.seen == [3]  # nothing was learnt again
    assert contents(tmp_path / "out") == expected


def test_damage_behind_what_was_learnt_begins_anew(tmp_path, monkeypatch):
    source = a_source(tmp_path / "source", num_hidden_layers=3)
    options = {**SMALL, "effort": "best"}
    expected = whole(source, tmp_path / "out", **options)
    with monkeypatch.context() as patch:
        patch.setattr(RepositoryWriter, "take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quantize(source, tmp_path / "out", QuantizeOptions(**options))
    flip_a_byte(tmp_path / ".out.work" / "shard-00000.safetensors", "model.layers.1.mlp.up_proj.qweight")
    assert quantize(source, tmp_path / "out", QuantizeOptions(**options)).resumed_blocks == 0
    assert contents(tmp_path / "out") == expected


def interrupted(*_):
    raise KeyboardInterrupt


def flip_a_byte(shard, tensor):
    place = SafetensorsShard(shard).places()[tensor]
    with shard.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("every", [0.0, 1e9])  # hidden states kept behind each block, or never: blocks are replayed
@pytest.mark.parametrize("effort", ["fast", "default"])
def test_states_and_replayed_blocks_end_in_the_same_bytes(tmp_path, monkeypatch, every, effort):
    source = a_source(tmp_path / "source", num_hidden_layers=4)
    expected = whole(source, tmp_path / "out", effort=effort)
    monkeypatch.setattr("halfbyte.quantize.work.STATE_EVERY", every)
    for blocks in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            quantize(source, tmp_path / "out", QuantizeOptions(**SMALL, effort=effort), progress=Stop(blocks))
        assert not (tmp_path / "out").exists()
        with pytest.raises(HalfbyteError):
            Checkpoint(open_source(tmp_path / ".out.work"))
    rest = Stop()
    report = quantize(source, tmp_path / "out", QuantizeOptions(**SMALL, effort=effort), progress=rest)
    assert report.resumed_blocks == 3 if every == 0 else report.resumed_blocks >= 2
    assert rest.seen[0] == report.resumed_blocks
    assert contents(tmp_path / "out") == expected


def test_tuning_goes_on_from_its_last_pass(tmp_path):
    source = a_source(tmp_path / "source", num_hidden_layers=3)
    big = {**SMALL, "samples": 70, "seq_len": 64, "effort": "best"}  # three steps a pass
    expected = whole(source, tmp_path / "out", **big)
    with pytest.raises(KeyboardInterrupt):
        quantize(source, tmp_path / "out", QuantizeOptions(**big), progress=Stop(steps=5))
    rest = Stop()
    quantize(source, tmp_path / "out", QuantizeOptions(**big), progress=rest)
    assert rest.seen == [3, 4, 5, 6]  # three blocks were done; the second pass begins again
    assert contents(tmp_path / "out") == expected


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"effort": "fast"}, "--effort was default and is now fast"),
        ({"group_size": 16}, "group size was 32 and is now 16"),
        ({"seed": 1}, "--seed"),
        ({"samples": 5}, "--samples was 4 and is now 5"),
        ({"skip": ("down_proj",)}, "linears kept in 16 bits"),
        ({"format": "compressed-tensors"}, "--format was awq and is now compressed-tensors"),
        ({"max_shard_size": 10_000}, "--max-shard-size"),
    ],
)
def test_other_options_fail_closed_and_are_named(tmp_path, changed, told):
    source = a_source(tmp_path / "source")
    with pytest.raises(KeyboardInterrupt):
        quantize(source, tmp_path / "out", QuantizeOptions(**SMALL), progress=Stop(1))
    kept = contents(tmp_path / ".out.work")
    with pytest.raises(QuantizeError, match=told) as caught:
        quantize(source, tmp_path / "out", QuantizeOptions(**{**SMALL, **changed}))
    assert "--overwrite" in str(caught.value)
    assert contents(tmp_path / ".out.work") == kept
    assert not (tmp_path / "out").exists()
    quantize(source, tmp_path / "out", QuantizeOptions(**{**SMALL, **changed}, overwrite=True))
    assert (tmp_path / "out" / "config.json").exists()


def test_another_width_of_the_mlp_fails_closed(tmp_path):
    source = a_source(tmp_path / "source", intermediate_size=48)
    with pytest.raises(KeyboardInterrupt):
        quantize(source, tmp_path / "out", QuantizeOptions(**SMALL, indivisible="skip"), progress=Stop(1))
    with pytest.raises(QuantizeError, match=r"--indivisible \(the MLP's width\) was 48 and is now 64"):
        quantize(source, tmp_path / "out", QuantizeOptions(**SMALL, indivisible="pad"))


def test_a_source_that_changed_is_noticed(tmp_path):
    source = a_source(tmp_path / "source")
    with pytest.raises(KeyboardInterrupt):
        quantize(source, tmp_path / "out", QuantizeOptions(**SMALL), progress=Stop(1))
    weights = source / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(QuantizeError, match="source's contents"):
        quantize(source, tmp_path / "out", QuantizeOptions(**SMALL))


def test_a_damaged_block_is_done_again(tmp_path):
    source = a_source(tmp_path / "source", num_hidden_layers=3)
    expected = whole(source, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        quantize(source, tmp_path / "out", QuantizeOptions(**SMALL), progress=Stop(3))
    flip_a_byte(tmp_path / ".out.work" / "shard-00000.safetensors", "model.layers.1.mlp.up_proj.qweight")
    report = quantize(source, tmp_path / "out", QuantizeOptions(**SMALL))
    assert report.resumed_blocks == 1
    assert contents(tmp_path / "out") == expected


def test_killed_when_out_is_there_but_the_work_folder_still_is(tmp_path, monkeypatch):
    source = a_source(tmp_path / "source")
    expected = whole(source, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(WorkFolder, "__exit__", lambda self, *_: os.close(self._lock))
        quantize(source, tmp_path / "out", QuantizeOptions(**SMALL))
    assert (tmp_path / ".out.work").exists()
    with pytest.raises(QuantizeError, match="--samples"):
        quantize(source, tmp_path / "out", QuantizeOptions(**{**SMALL, "samples": 5}))
    assert contents(tmp_path / "out") == expected
    quantize(source, tmp_path / "out", QuantizeOptions(**SMALL))
    assert contents(tmp_path / "out") == expected
    assert not (tmp_path / ".out.work").exists()


def test_killed_while_the_work_folder_is_removed(tmp_path, monkeypatch):
    source = a_source(tmp_path / "source")
    expected = whole(source, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr("halfbyte.quantize.work.shutil.rmtree", removed_in_part)
        with pytest.raises(KeyboardInterrupt):
            quantize(source, tmp_path / "out", QuantizeOptions(**SMALL))
    assert contents(tmp_path / "out") == expected
    assert not (tmp_path / ".out.work").exists(), "half of it is nothing to go on from"
    with pytest.raises(OutputError, match="already holds something"):
        quantize(source, tmp_path / "out", QuantizeOptions(**SMALL))
    assert contents(tmp_path / "out") == expected
    quantize(source, tmp_path / "out", QuantizeOptions(**SMALL, overwrite=True))
    assert contents(tmp_path / "out") == expected
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def removed_in_part(path, **_):
    if path.name.endswith(".over") and path.exists():
        (path / "block-00000.json").unlink()
        raise KeyboardInterrupt


def test_a_disk_that_fills_up_under_way_loses_nothing(tmp_path, monkeypatch):
    source = a_source(tmp_path / "source", num_hidden_layers=3)
    expected = whole(source, tmp_path / "out")
    write = Path.write_bytes

    def full(self, data):
        if self.name == "block-00001.tmp":
            write(self, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OutputError, match=r"block-00001\.json: cannot be written: No space left"):
            quantize(source, tmp_path / "out", QuantizeOptions(**SMALL))
    assert quantize(source, tmp_path / "out", QuantizeOptions(**SMALL)).resumed_blocks == 1
    assert contents(tmp_path / "out") == expected


def test_hidden_states_that_are_not_whole_are_not_gone_on_from(tmp_path, monkeypatch):
    source = a_source(tmp_path / "source", num_hidden_layers=3)
    expected = whole(source, tmp_path / "out")
    monkeypatch.setattr("halfbyte.quantize.work.STATE_EVERY", 0.0)
    monkeypatch.setattr("halfbyte.quantize.work.STATE_SHARE", 0)
    with pytest.raises(KeyboardInterrupt):
        quantize(source, tmp_path / "out", QuantizeOptions(**SMALL), progress=Stop(2))
    (state,) = (tmp_path / ".out.work").glob("state-*")
    os.truncate(state, state.stat().st_size - 4)
    assert quantize(source, tmp_path / "out", QuantizeOptions(**SMALL)).resumed_blocks == 2
    assert contents(tmp_path / "out") == expected


def test_the_same_bytes_where_a_file_has_one_name_only(tmp_path, monkeypatch):
    source = a_source(tmp_path / "source")
    expected = whole(source, tmp_path / "out")
    seen = {}
    monkeypatch.setattr(Stop, "plan", lambda self, plan: seen.setdefault(self.blocks, plan.disk))
    with pytest.raises(KeyboardInterrupt):
        quantize(source, tmp_path / "linked", QuantizeOptions(**SMALL), progress=Stop(1))
    monkeypatch.setattr(os, "link", cannot_link)
    with pytest.raises(KeyboardInterrupt):
        quantize(source, tmp_path / "out", QuantizeOptions(**SMALL), progress=Stop(2))
    report = quantize(source, tmp_path / "out", QuantizeOptions(**SMALL))
    assert seen[2] - seen[1] == report.out_bytes, "the disk holds the weights twice"
    assert contents(tmp_path / "out") == expected


def cannot_link(*_):
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def test_two_runs_do_not_write_to_one_out(tmp_path):
    source = a_source(tmp_path / "source")
    with WorkFolder(tmp_path / "out"), pytest.raises(OutputError, match="another run"):
        quantize(source, tmp_path / "out", QuantizeOptions(**SMALL))


def test_a_gate_that_was_too_strict_can_be_raised_without_starting_again(tmp_path):
    source = a_source(tmp_path / "source")
    with pytest.raises(GateError, match=r"more than --gate 0% allows.*--group-size") as caught:
        quantize(source, tmp_path / "out", QuantizeOptions(**SMALL, gate=0.0))
    assert "perplexity on held-out text" in str(caught.value)
    assert not (tmp_path / "out").exists()
    report = quantize(source, tmp_path / "out", QuantizeOptions(**SMALL, gate=10.0))
    assert report.resumed_blocks == 2
    assert not (tmp_path / ".out.work").exists()
