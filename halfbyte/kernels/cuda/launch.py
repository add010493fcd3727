"""Loading and launching machine code through the CUDA driver, on PyTorch's context and stream."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char_p, c_float, c_int, c_uint, c_void_p
from functools import cache
from typing import TYPE_CHECKING

import torch

from halfbyte.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from halfbyte.kernels.cuda.tensor_map import TensorMap

MAX_DYNAMIC_SHARED_SIZE_BYTES = 8  # CU_FUNC_ATTRIBUTE_…
COOPERATIVE, PROGRAMMATIC_STREAM_SERIALIZATION = 2, 6  # CU_LAUNCH_ATTRIBUTE_…


class _Attribute(ctypes.Structure):
    _fields_ = [("id", c_int), ("pad", c_int), ("value", c_int), ("rest", ctypes.c_char * 60)]


class _Config(ctypes.Structure):
    _fields_ = [
        ("grid", c_uint * 3), ("block", c_uint * 3), ("shared", c_uint), ("stream", c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)), ("count", c_uint),
    ]  # fmt: skip


class CudaKernel:
    """A kernel of a cubin. Launch it only on the device that was current when it was loaded."""

    def __init__(self, cubin: bytes, name: str, max_shared: int) -> None:
        """max_shared: the most bytes of dynamic shared memory that a launch will ask for."""
        cuda = driver()
        torch.cuda.current_stream()  # makes PyTorch's context current
        module, function = c_void_p(), c_void_p()
        check(cuda.cuModuleLoadData(byref(module), cubin))
        check(cuda.cuModuleGetFunction(byref(function), module, name.encode()))
        check(cuda.cuFuncSetAttribute(function, MAX_DYNAMIC_SHARED_SIZE_BYTES, max_shared))
        self._module, self._function, self._cubin = module, function, cubin
        self._overlaps = torch.cuda.get_device_capability()[0] >= 9

    def __call__(
        self,
        grid: int,
        threads: int,
        shared: int,
        arguments: Sequence[torch.Tensor | TensorMap | int | float | None],
        *,
        early: bool = False,
        together: bool = False,
    ) -> None:
        """Launch. Tensors go as pointers, None as a null pointer, int and float as 32 bits, maps by value.

        early: the kernel may begin while the one before it runs, and waits for it by itself; from Hopper on.
        together: all blocks run at once, or KernelError is raised: they wait for each other.
        """
        values = [_argument(a) for a in arguments]
        pointers = (c_void_p * len(values))(*(v if isinstance(v, int) else ctypes.addressof(v) for v in values))
        stream = torch.cuda.current_stream().cuda_stream
        ids = [PROGRAMMATIC_STREAM_SERIALIZATION] * (early and self._overlaps) + [COOPERATIVE] * together
        attributes = (_Attribute * len(ids))(*(_Attribute(i, 0, 1) for i in ids))
        config = _Config((grid, 1, 1), (threads, 1, 1), shared, stream, attributes, len(ids))
        check(driver().cuLaunchKernelEx(byref(config), self._function, pointers, None))


def _argument(a: torch.Tensor | TensorMap | int | float | None) -> ctypes._SimpleCData | int:  # type: ignore[type-arg]
    """What holds the argument, or where it lies."""
    if a is None:
        return c_void_p(0)
    if isinstance(a, torch.Tensor):
        return c_void_p(a.data_ptr())
    if isinstance(a, int | float):
        return c_int(a) if isinstance(a, int) else c_float(a)
    return a.address


def check(result: int) -> None:
    """Raise KernelError with the driver's words unless a call's result is 0."""
    if result:
        text = c_char_p()
        driver().cuGetErrorString(result, byref(text))
        raise KernelError(f"the CUDA driver failed: {(text.value or b'unknown').decode()}")


@cache
def driver() -> ctypes.CDLL:
    """NVIDIA's libcuda."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise KernelError(f"the CUDA driver cannot be loaded: {error}") from error
