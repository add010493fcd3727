"""Memory: what a run takes does not grow with the number of blocks, and the plan refuses what cannot fit."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tiny_sources import a_source

from halfbyte.errors import QuantizeError
from halfbyte.quantize import QuantizeOptions, quantize
from halfbyte.quantize.driver import Silent

WIDE = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 64,
}
BLOCK = 4 * 512**2 + 3 * 512 * 1024  # weights, two bytes each in the source

# Imports once, then forks a child a model; the kernel tells the most memory, mapped files included, since it began.
CHILDREN = """
import json, os, sys
import torch
torch.set_num_threads(1)
from halfbyte.quantize import QuantizeOptions, quantize
for source in json.loads(sys.argv[1]):
    pid = os.fork()
    if pid == 0:
        open("/proc/self/clear_refs", "w").write("5")
        quantize(source, source + "-out", QuantizeOptions(samples=4, seq_len=64, effort="gptq", calib=sys.argv[2]))
        print(int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024, flush=True)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""


def calibration(folder):
    text = folder / "text.txt"
    text.write_text("".join(f"{i} bottles of beer on the wall. " for i in range(2000)))
    return str(text)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_does_not_grow_with_depth(tmp_path):
    depths = (3, 11)
    sources = [str(a_source(tmp_path / str(n), num_hidden_layers=n, torch_dtype="float16", **WIDE)) for n in depths]
    command = [sys.executable, "-c", CHILDREN, json.dumps(sources), calibration(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    shallow, deep = (int(line) for line in result.stdout.splitlines())
    assert deep - shallow < 12 * BLOCK  # eight blocks more take 16 BLOCK bytes in the source, and 4 in the result


class Told(Silent):
    def plan(self, plan):
        self.told = plan


def test_the_plan_refuses_what_cannot_fit_and_names_the_option_that_would(tmp_path):
    source = a_source(tmp_path / "source", num_hidden_layers=2)
    options = {"samples": 4, "seq_len": 64, "calib": calibration(tmp_path), "device": "cpu"}
    with pytest.raises(QuantizeError, match=r"--memory allows 0\.1; raise it to [\d.]+GiB") as caught:
        quantize(source, tmp_path / "out", QuantizeOptions(**options, memory=2**27))
    assert not list(tmp_path.glob("out*"))
    assert not list(tmp_path.glob(".out*"))
    enough = float(str(caught.value).rpartition("raise it to ")[2].removesuffix("GiB"))
    told = Told()
    quantize(source, tmp_path / "out", QuantizeOptions(**options, memory=int(enough * 2**30)), progress=told)
    assert told.told.memory <= enough * 2**30


@pytest.mark.parametrize("effort", ["rtn", "default", "best"])
def test_what_does_not_fit_beside_the_rest_is_planned_to_lie_in_a_file(tmp_path, effort):
    source = a_source(tmp_path / "source", num_hidden_layers=2)
    calib, told = calibration(tmp_path), {}
    for memory in (2**30, 2**33):
        told[memory] = Told()
        options = QuantizeOptions(samples=30, seq_len=256, calib=calib, effort=effort, memory=memory, overwrite=True)
        quantize(source, tmp_path / "out", options, progress=told[memory])
    small, large = (told[memory].told for memory in (2**30, 2**33))
    assert large.spilled == 0
    assert small.disk - large.disk == small.spilled
    assert small.memory + small.spilled == large.memory
