"""The native kernels for ARM, by a cross compiler and an emulator (Debian: gcc-aarch64-linux-gnu, qemu-user)."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from halfbyte.kernels.cpu.build import FLAGS, SOURCES

HARNESS = Path(__file__).with_name("exact_products.c")
EXACT = "wrong 0 hash 2af3c70c025e136b"  # of integers small enough for any order of summation


def tools() -> tuple[str, list[str]]:
    """The compiler, and what runs its programs; skips where one is missing."""
    if platform.machine() in ("aarch64", "arm64"):
        pytest.skip("this is an ARM machine: the other tests run its kernels")
    compiler = shutil.which("aarch64-linux-gnu-gcc")
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    missing = [what for what, there in (("aarch64-linux-gnu-gcc", compiler), ("qemu-aarch64", emulator)) if not there]
    if missing:
        pytest.skip(f"not installed: {' and '.join(missing)}")
    return str(compiler), [str(emulator)]


@pytest.mark.parametrize("name", ["neon", "portable"])
def test_products_come_out_on_arm_as_they_must(name, tmp_path):
    compiler, emulator = tools()
    program = tmp_path / name
    # -O1: it is what is computed that is looked at, and the emulator and the compiler take less time
    flags = ["-std=gnu11", "-O1", "-static", "-pthread", f"-I{SOURCES}", *FLAGS[name][1]]
    made = subprocess.run(
        [compiler, *flags, str(HARNESS), "-o", str(program), "-lm"], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    result = subprocess.run([*emulator, str(program)], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == EXACT
