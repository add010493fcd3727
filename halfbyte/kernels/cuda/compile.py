"""From CUDA C++ to machine code by NVRTC, which PyTorch carries: no toolkit and no build step. Kept on disk."""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from functools import cache
from pathlib import Path

import torch

from halfbyte.errors import KernelError
from halfbyte.kernels.cache import kernel_folder


def compiled(source: str, defines: dict[str, int], arch: str) -> bytes:
    """A cubin for `arch` ("sm_90"). Raises KernelError with the compiler's words."""
    options = [f"--gpu-architecture={arch}", "--std=c++17", *(f"-D{name}={value}" for name, value in defines.items())]
    library = _nvrtc()
    major, minor = c_int(), c_int()
    library.nvrtcVersion(byref(major), byref(minor))
    key = hashlib.sha256("\0".join([source, *options, f"{major.value}.{minor.value}"]).encode()).hexdigest()[:24]
    kept = kernel_folder() / f"{key}.cubin"
    if kept.exists():
        return kept.read_bytes()
    cubin = _compile(library, source, options)
    temporary = kept.with_suffix(f".{os.getpid()}.tmp")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(cubin)
        temporary.rename(kept)
    except OSError:
        temporary.unlink(missing_ok=True)  # it is compiled again the next time
    return cubin


def has_nvrtc() -> bool:
    """Whether there is a compiler."""
    try:
        _nvrtc()
    except KernelError:
        return False
    return True


def _compile(library: ctypes.CDLL, source: str, options: list[str]) -> bytes:
    program = c_void_p()
    _check(library, library.nvrtcCreateProgram(byref(program), source.encode(), b"kernel.cu", 0, None, None))
    try:
        given = (c_char_p * len(options))(*(option.encode() for option in options))
        failed = library.nvrtcCompileProgram(program, len(options), given)
        size = c_size_t()
        if failed:
            library.nvrtcGetProgramLogSize(program, byref(size))
            log = ctypes.create_string_buffer(size.value)
            library.nvrtcGetProgramLog(program, log)
            raise KernelError(f"NVRTC could not compile a kernel ({' '.join(options)}): {log.value.decode()[:2000]}")
        _check(library, library.nvrtcGetCUBINSize(program, byref(size)))
        cubin = ctypes.create_string_buffer(size.value)
        _check(library, library.nvrtcGetCUBIN(program, cubin))
        return cubin.raw
    finally:
        library.nvrtcDestroyProgram(byref(program))


def _check(library: ctypes.CDLL, result: int) -> None:
    if result:
        library.nvrtcGetErrorString.restype = c_char_p
        raise KernelError(f"NVRTC failed: {library.nvrtcGetErrorString(result).decode()}")


@cache
def _nvrtc() -> ctypes.CDLL:
    major = (torch.version.cuda or "").partition(".")[0]
    name = f"libnvrtc.so.{major}"
    places = [name]
    for folder in sys.path:
        places += [str(path) for path in sorted(Path(folder).glob(f"nvidia/*/lib/{name}"))]
    places += [str(path) for path in sorted(Path("/usr/local").glob(f"cuda*/lib64/{name}"))]
    for place in places:
        try:
            return ctypes.CDLL(place)
        except OSError:
            continue
    raise KernelError(f"{name} was not found, which PyTorch's CUDA builds carry; portable kernels can be used instead")
