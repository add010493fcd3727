"""Lets code written for a GPU run where there is none: `tensor.cuda()` gives the tensor itself.

Model cards of the AutoAWQ era end their tokenizing line in `.input_ids.cuda()`. On a machine without CUDA torch raises
there, before our CPU layers are ever asked. `AutoAWQForCausalLM.from_quantized` therefore calls `install`, which does
nothing where CUDA is available or HALFBYTE_NO_CUDA_SHIM=1 is set. The first `tensor.cuda()` warns; `uninstall` puts
torch's own method back.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch

OPT_OUT = "HALFBYTE_NO_CUDA_SHIM"

_torch_cuda = torch.Tensor.cuda
_warned = False


def install() -> bool:
    """Make `Tensor.cuda` harmless, if there is no CUDA and nobody opted out. Returns whether it is so now."""
    if torch.cuda.is_available() or os.environ.get(OPT_OUT) == "1":
        return False
    torch.Tensor.cuda = stay  # type: ignore[method-assign,assignment]
    return True


def uninstall() -> None:
    """Put torch's own `Tensor.cuda` back."""
    global _warned  # noqa: PLW0603
    torch.Tensor.cuda = _torch_cuda  # type: ignore[method-assign]
    _warned = False


def stay(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """The tensor itself, where it is."""
    global _warned  # noqa: PLW0603  once a process is enough
    if not _warned:
        _warned = True
        warnings.warn(
            "there is no CUDA here: tensor.cuda() leaves the tensor on the CPU, where halfbyte's model is "
            f"(set {OPT_OUT}=1 to have torch raise instead)",
            stacklevel=2,
        )
    return self
