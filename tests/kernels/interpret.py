"""Triton's interpreter, with a fault mended."""

from __future__ import annotations


def loops_over_tensors() -> None:
    """Let `range` take a tensor: Triton 3.6 makes an int of an array of one element, which numpy 2.4 refuses."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched
