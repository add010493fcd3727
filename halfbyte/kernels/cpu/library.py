"""The native kernels as Python sees them: ctypes mirrors of the structures in native/*.h, and the library itself."""

from __future__ import annotations

import ctypes
import functools
import logging
from ctypes import POINTER, Structure, c_float, c_int, c_int64, c_void_p
from typing import Any

import torch

from halfbyte.kernels.cpu.build import instruction_set, library_path

log = logging.getLogger(__name__)
KEYS, MAX_HEAD = 16, 256  # attention.h: keys a step; the widest head
IDLE_MICROSECONDS = 1000  # how long the workers wait for more before they sleep


class Int4Linear(Structure):
    """int4.h."""

    _fields_ = (
        ("outputs", c_int64),
        ("inputs", c_int64),
        ("group", c_int64),
        ("q", c_void_p),
        ("scales", c_void_p),
        ("zeros", c_void_p),
        ("bias", c_void_p),
    )


class Int8Linear(Structure):
    """int8.h."""

    _fields_ = (("outputs", c_int64), ("inputs", c_int64), ("q", c_void_p), ("scales", c_void_p))


class After(Structure):
    """span.h."""

    _fields_ = (("o", Int4Linear), ("gate", Int4Linear), ("up", Int4Linear), ("down", Int4Linear), ("norm", c_void_p))


class Span(Structure):
    """span.h."""

    _fields_ = (
        ("after", POINTER(After)),
        ("norm", c_void_p),
        ("qkv", POINTER(Int4Linear)),
        ("hidden", c_int64),
        ("eps", c_float),
    )


class Paged(Structure):
    """attention.h."""

    _fields_ = (
        *((name, c_int64) for name in ("sequences", "heads", "kv_heads", "head_dim", "block_size", "table_width")),
        *((name, c_void_p) for name in ("query_start", "context", "tables", "slots")),
        ("scale", c_float),
    )


class LayerCache(Structure):
    """attention.h."""

    _fields_ = (("keys", c_void_p), ("values", c_void_p), ("window", c_int64))


class Start(Structure):
    """pass.h."""

    _fields_ = (
        ("embedding", c_void_p),
        ("kind", c_int64),
        *((name, c_void_p) for name in ("tokens", "positions", "cosine", "sine")),
    )


class HeadNorms(Structure):
    """pass.h."""

    _fields_ = (("q_norm", c_void_p), ("k_norm", c_void_p))


class Network(Structure):
    """pass.h."""

    _fields_ = (
        *((name, c_int64) for name in ("layers", "hidden", "gated", "heads", "kv_heads", "head_dim")),
        ("spans", POINTER(Span)),
        ("norms", POINTER(HeadNorms)),
        ("eps", c_float),
    )


ARGUMENTS: dict[str, list[Any]] = {
    "hb_threads": [c_int, c_int],
    "hb_pack_int4": [POINTER(Int4Linear), c_void_p, c_void_p, c_void_p],
    "hb_pack_int8": [POINTER(Int8Linear), c_void_p, c_int64, c_int64],
    "hb_likeliest": [c_void_p, c_int64, c_int64, c_void_p],
    "hb_draw": [c_void_p, c_int64, c_int64],
    "hb_linear": [POINTER(Int4Linear), c_void_p, c_int64, c_void_p],
    "hb_head": [POINTER(Int8Linear), c_void_p, c_int64, c_void_p],
    "hb_span": [POINTER(Span), c_void_p, c_void_p, c_int64, c_void_p],
    "hb_attention": [POINTER(Paged), POINTER(LayerCache), c_void_p, c_void_p, c_void_p, c_void_p],
    "hb_pass": [POINTER(Network), POINTER(Paged), POINTER(LayerCache), POINTER(Start), *[c_void_p] * 4],
}
NO_RESULT = {"hb_threads", "hb_pack_int4", "hb_pack_int8", "hb_likeliest"}


class Library:
    """The native functions of one instruction set. They let go of Python's lock while they run."""

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.functions = {}
        library = ctypes.CDLL(path)
        for function, arguments in ARGUMENTS.items():
            call = getattr(library, function)
            call.argtypes, call.restype = arguments, None if function in NO_RESULT else c_int
            self.functions[function] = call
        self.threads(torch.get_num_threads())

    def __call__(self, function: str, *arguments: Any) -> None:
        """Call a function. Raises MemoryError if there is no room for its buffers."""
        if self.functions[function](*arguments) == 0 and function not in NO_RESULT:
            raise MemoryError(f"{function}: no memory for the buffers of a pass")

    def threads(self, threads: int) -> None:
        """How many threads a call uses, this one included."""
        self.functions["hb_threads"](threads, IDLE_MICROSECONDS)


@functools.cache
def load_library() -> Library | None:
    """The library for this machine, or None: there is no compiler, or onnxruntime was asked for."""
    name = instruction_set()
    for candidate in () if name is None else dict.fromkeys((name, "portable")):
        library = open_library(candidate)
        if library is not None:
            return library
    return None


def open_library(name: str) -> Library | None:
    """Build if need be, load, and try: what does not compute as it should is not used."""
    path = library_path(name)
    if path is None:
        return None
    library = Library(name, str(path))
    if computes(library):
        return library
    log.warning("the native kernels for %s compute wrongly on this machine and are not used; please report this", name)
    return None


def computes(library: Library) -> bool:
    """Whether a small product comes out right. All its numbers are integers, so it must do so exactly."""
    outputs, inputs = 16, 64
    i = torch.arange(outputs * inputs)
    q, zeros = (i * 7 % 16).byte().view(outputs, inputs), (i[: 2 * outputs] % 16).byte().view(outputs, 2)
    x = (i[:inputs] * 37 % 255 - 127).float()[None]
    x[0, ::32] = 127.0  # the largest of each block, so that its scale is 1
    scales = torch.ones(outputs, 2, dtype=torch.float16)
    room = [torch.empty(n, dtype=torch.uint8) for n in (outputs * inputs // 2, outputs * 4, outputs * 2)]
    native = Int4Linear(outputs, inputs, 32, *(r.data_ptr() for r in room), None)
    library("hb_pack_int4", ctypes.byref(native), q.data_ptr(), scales.data_ptr(), zeros.data_ptr())
    y = torch.empty(1, outputs)
    library("hb_linear", ctypes.byref(native), x.data_ptr(), 1, y.data_ptr())
    return torch.equal(y, x @ (q.float() - zeros.float().repeat_interleave(32, 1)).T)
