"""Kernels compile, to machine code and within a block's shared memory, for GPUs that the project has never run on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is for Linux only")

from triton_targets import FEW, TARGETS, kernels

SCRIPT = Path(__file__).parent / "triton_targets.py"


def compiled(target, tmp_path, *few):
    """In a process of its own: here Triton may be the interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, SCRIPT, target, *few]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return len(run.stdout.splitlines())


@pytest.mark.parametrize("target", ["sm_75", "gfx942"])
def test_some_compile(target, tmp_path):
    assert compiled(target, tmp_path, "few") == len(FEW)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_all_compile(target, tmp_path):
    assert compiled(target, tmp_path) == len(list(kernels(target)))
