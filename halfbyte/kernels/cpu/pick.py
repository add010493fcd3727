"""Which kernels a quantized network gets on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfbyte.kernels.cpu.library import load_library

if TYPE_CHECKING:
    from halfbyte.kernels.interface import Kernels


MOST_SHARING_HEADS = 64  # query heads of one key-value head, native/attention.h's MAX_ROWS


def cpu_kernels(*, adaptable: bool = False, sharing_heads: int = 1) -> Kernels:
    """Our own where they could be built, onnxruntime's elsewhere (see build.py).

    adaptable: spans can be called with `adapt`. sharing_heads: query heads that read one key-value head.
    """
    library = load_library()
    if library is None or sharing_heads > MOST_SHARING_HEADS:
        from halfbyte.kernels.cpu.onnx_kernels import OnnxKernels  # noqa: PLC0415  it takes 0.2 s to import

        return OnnxKernels(adaptable=adaptable)
    from halfbyte.kernels.cpu.native_kernels import NativeKernels  # noqa: PLC0415

    return NativeKernels(library, adaptable=adaptable)
