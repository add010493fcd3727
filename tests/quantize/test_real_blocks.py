"""The first two blocks of a real model: what the recipe does pays for itself on text that was not calibrated on."""

from __future__ import annotations

import pytest
from tiny_checkpoints import write_model

from halfbyte.quantize import QuantizeOptions, quantize

BLOCKS = 2


@pytest.fixture(scope="module")
def source(smollm2_source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real") / "two-blocks"
    kept = [n for n in smollm2_source.tensors() if ".layers." not in n or int(n.split(".")[2]) < BLOCKS]
    config = smollm2_source.config | {"num_hidden_layers": BLOCKS}
    write_model(folder, config, {name: smollm2_source.read(name) for name in kept})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes(smollm2_source.file(name))
    return folder


def test_more_effort_stays_nearer_to_the_model(source, tmp_path):
    kl = {}
    for effort in ("rtn", "default"):
        options = QuantizeOptions(samples=8, seq_len=64, effort=effort, group_size=64)
        kl[effort] = quantize(source, tmp_path / effort, options).held_out["kl_divergence"]
    assert 0 < kl["default"] < 0.6 * kl["rtn"], kl
