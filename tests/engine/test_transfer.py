"""What goes to a device in one buffer is what comes out of it."""

from __future__ import annotations

import pickle

import numpy as np
import torch

from halfbyte.engine.block_tables import BlockTables
from halfbyte.engine.outputs import Begun, Delta, Logprob
from halfbyte.engine.transfer import ALIGNMENT, Download, pack, unpack, upload

ARRAYS = [
    np.arange(5),
    np.arange(12, dtype=np.int32).reshape(4, 3)[:, :2],  # not contiguous
    np.empty(0, dtype=np.int64),
    np.array([[0.5], [-2.0]]),
]


def test_what_is_packed_comes_out():
    buffer = pack(ARRAYS, pinned=False)
    parts = unpack(buffer, ARRAYS)
    for part, array in zip(parts, ARRAYS, strict=True):
        assert np.array_equal(part.numpy(), array)
        assert part.numpy().dtype == array.dtype
        assert (part.data_ptr() - buffer.data_ptr()) % ALIGNMENT == 0


def test_on_the_cpu_nothing_is_copied():
    tensors = upload(ARRAYS, torch.device("cpu"))
    assert all(np.shares_memory(t.numpy(), a) or a.size == 0 for t, a in zip(tensors, ARRAYS, strict=True))
    assert Download(tensors[0]).read().tolist() == [0, 1, 2, 3, 4]


def test_tables_grow_and_keep_what_they_have():
    tables = BlockTables()
    rows = [tables.take() for _ in range(70)]
    assert len(set(rows)) == 70
    for row in rows:
        tables.write(row, 0, [row])
        tables.write(row, 1, range(40))
    for row in rows:
        assert tables.rows[row, :41].tolist() == [row, *range(40)]
    tables.give_back(rows[3])
    assert tables.take() == rows[3]


def test_a_step_is_itself_behind_a_pipe():
    step = Delta(" a", 5, "stop", "x", 2, {5: Logprob(-0.5, 1, " a")}, [None], Begun(1.0, 3))
    copy = pickle.loads(pickle.dumps(step))
    assert copy == step
    assert copy.begun == step.begun
