"""Which kernels a quantized network gets on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfbyte.kernels.cpu.library import load_library

if TYPE_CHECKING:
    from halfbyte.kernels.interface import Kernels


def cpu_kernels(*, adaptable: bool = False) -> Kernels:
    """Our own where they could be built, onnxruntime's elsewhere (see build.py).

    adaptable: spans can be called with `adapt`.
    """
    library = load_library()
    if library is None:
        from halfbyte.kernels.cpu.onnx_kernels import OnnxKernels  # noqa: PLC0415  it takes 0.2 s to import

        return OnnxKernels(adaptable=adaptable)
    from halfbyte.kernels.cpu.native_kernels import NativeKernels  # noqa: PLC0415

    return NativeKernels(library, adaptable=adaptable)
