"""Triton's interpreter, with two faults mended."""

from __future__ import annotations


def mend() -> None:
    """Both of them."""
    loops_over_tensors()
    dots()


def loops_over_tensors() -> None:
    """Let `range` take a tensor: Triton 3.6 makes an int of an array of one element, which numpy 2.4 refuses."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched


def dots() -> None:
    """Let `dot` multiply bfloat16, whose 16 bits it takes for a whole number, and give a row the same at every place.

    numpy's float32 products add a row up in an order that depends on where it lies: sums are of float64 here.
    """
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    def widened(handle):
        if handle.dtype.scalar == tl.bfloat16:
            return (handle.data.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return handle.data.astype(np.float64)

    def create_dot(self, a, b, d, *_):
        product = np.matmul(widened(a), widened(b)).astype(d.data.dtype)
        return interpreter.TensorHandle(product + d.data, d.dtype.scalar)

    interpreter.InterpreterBuilder.create_dot = create_dot
