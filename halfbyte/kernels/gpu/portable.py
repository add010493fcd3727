"""Which kernels a device gets: CUDA C++ with Triton beside it, or Triton alone."""

from __future__ import annotations

import os
from functools import cache

import torch

from halfbyte.errors import KernelError
from halfbyte.kernels.cuda.compile import has_nvrtc

LEAST = (7, 5)  # compute capability that Triton still compiles for
LEAST_CUDA = (8, 0)  # of the matrix products that the .cu files are written with
SWITCH = "HALFBYTE_KERNELS"  # "triton": no CUDA C++, on any device


@cache
def is_portable(device: torch.device) -> bool:
    """Whether a device gets Triton kernels alone: AMD, GPUs before Ampere, no NVRTC, or because it is told so.

    A CPU too: there Triton's interpreter runs them, to test them.
    """
    if os.environ.get(SWITCH) == "triton" or device.type != "cuda" or torch.version.hip is not None:
        return True
    return torch.cuda.get_device_capability(device) < LEAST_CUDA or not has_nvrtc()


def check_device(device: torch.device) -> None:
    """Raise KernelError for a GPU that there are no kernels for, or a switch that is set to something else."""
    wanted = os.environ.get(SWITCH, "")
    if wanted not in ("", "cuda", "triton"):
        raise KernelError(f'{SWITCH} is {wanted!r}; it must be "triton", "cuda", or unset for what is best')
    if device.type != "cuda" or torch.version.hip is not None:
        return
    capability, name = torch.cuda.get_device_capability(device), torch.cuda.get_device_name(device)
    if capability < LEAST:
        raise KernelError(f"{name} is of compute capability {capability}, kernels need {LEAST}; run it on the CPU")
    if wanted == "cuda" and is_portable(device):
        raise KernelError(
            f"{SWITCH} is 'cuda', which needs NVRTC and compute capability {LEAST_CUDA}; {name} has {capability}, and "
            f"NVRTC was {'found' if has_nvrtc() else 'not found'}; unset it"
        )
