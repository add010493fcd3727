"""Builds the native kernels with the C compiler at hand, once, and keeps them in the cache.

    python -m halfbyte.kernels.cpu.build [INSTRUCTION_SET ...]    (to build beforehand, as an image may want to)

A library serves one instruction set and is named after it and after the hash of its source, so a changed source or
another machine with the same home folder gets its own. Without a compiler there are no native kernels, and
`onnx_kernels` does the work.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from halfbyte.errors import ConfigError
from halfbyte.kernels.cache import kernel_folder

log = logging.getLogger(__name__)
SOURCES = Path(__file__).parent / "native"
COMMON = ["-std=gnu11", "-O3", "-shared", "-fPIC", "-fvisibility=hidden", "-pthread"]
CHOICE = "HALFBYTE_CPU"  # environment: an instruction set of FLAGS, or "onnxruntime"

AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512_VNNI = [*AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "vl", "dq", "vnni"))]
# Best first. What /proc/cpuinfo calls what they need, and what tells the compiler.
FLAGS: dict[str, tuple[str, list[str]]] = {
    "avx512vnni": ("avx512f avx512bw avx512vl avx512dq avx512_vnni avx2 fma f16c", AVX512_VNNI),
    "avxvnni": ("avx_vnni avx2 fma f16c", [*AVX2, "-mavxvnni"]),
    "avx2": ("avx2 fma f16c", AVX2),
    "neon": ("asimddp asimdhp", ["-march=armv8.2-a+dotprod+fp16"]),
    "portable": ("", []),
}


def instruction_set() -> str | None:
    """The set that $HALFBYTE_CPU names, or else the best that this machine has; None for onnxruntime.

    Raises ConfigError for a name that there is not.
    """
    chosen = os.environ.get(CHOICE, "")
    if chosen == "onnxruntime" or sys.platform == "win32":  # the pool's threads are POSIX's
        return None
    if chosen and chosen not in FLAGS:
        raise ConfigError(f"{CHOICE} is {chosen!r}; it may be onnxruntime or one of {', '.join(FLAGS)}")
    if chosen:
        return chosen
    have = machine_flags()
    return next(name for name, (needs, _) in FLAGS.items() if set(needs.split()) <= have)


def machine_flags() -> set[str]:
    """What the processor can do, in Linux's words; nothing where that is not known."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return {"asimddp", "asimdhp"}  # every one of Apple's own
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split(":")[1].split()) for line in lines if line.startswith(("flags", "Features"))), set())


def library_path(name: str) -> Path | None:
    """The library for that instruction set, built if it is not there yet; None if that cannot be done."""
    file = f"halfbyte-{name}-{source_hash(name)}.so"
    for folder in (SOURCES, kernel_folder()):
        if (folder / file).exists():
            return folder / file
    return compile_to(kernel_folder() / file, name)


def compile_to(path: Path, name: str) -> Path | None:
    """Compile, and put the result there in one step, so that nobody loads half a file."""
    compiler = find_compiler()
    if compiler is None:
        log.info("no C compiler: 4-bit products run on onnxruntime, which takes about twice as long")
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            command = [*compiler, *COMMON, *FLAGS[name][1], str(SOURCES / "halfbyte.c"), "-o", str(made), "-lm"]
            result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
            if result.returncode == 0:
                made.replace(path)
                return path
        reason = result.stderr.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    log.warning("the native kernels could not be built, onnxruntime takes their place: %s", reason[-500:])
    return None


def find_compiler() -> list[str] | None:
    """$CC, or the first of the usual names, or clang as the package ziglang brings it."""
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        if name and shutil.which(name.split()[0]):
            return name.split()
    return [sys.executable, "-m", "ziglang", "cc"] if importlib.util.find_spec("ziglang") else None


@functools.cache
def source_hash(name: str) -> str:
    """Of the sources and flags."""
    digest = hashlib.sha256(" ".join([*COMMON, *FLAGS[name][1]]).encode())
    for file in sorted(SOURCES.glob("*.[ch]")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    best = instruction_set()
    built = [library_path(name) for name in sys.argv[1:] or ([] if best is None else [best])]
    print(*built, sep="\n")
    sys.exit(None in built)
