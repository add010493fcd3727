"""One 4-bit linear as a torch module: loaded from the AWQ container, run by our kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from halfbyte.checkpoint.awq import unpack_gemm
from halfbyte.errors import CheckpointError, ConfigError, IntegrationError
from halfbyte.kernels.interface import LinearWeight

if TYPE_CHECKING:
    from typing import Any

    from halfbyte.kernels.interface import Kernels, LinearKernel

CONTAINER = ("qweight", "qzeros", "scales")


class Int4Linear(nn.Module):
    """Stands in for an `nn.Linear`, for inference only.

    It has two lives. From construction to `build` it holds the AWQ container's tensors as buffers (qweight [K, N/8],
    qzeros [K/G, N/8], scales [K/G, N]), for a loader to fill. `build` repacks them once for this machine and lets them
    go, so that the weight is in memory once; from then on the module runs, and has no tensors of its own to save.
    """

    qweight: torch.Tensor | None
    qzeros: torch.Tensor | None
    scales: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(self, in_features: int, out_features: int, group_size: int, bias: bool, name: str) -> None:
        """name: the module's place in its model, for messages. group_size -1 is one group for all inputs."""
        super().__init__()
        self.in_features, self.out_features, self.name = in_features, out_features, name
        group = in_features if group_size == -1 else group_size
        if in_features % group or out_features % 8:
            raise ConfigError(
                f"{name} has {in_features} inputs and {out_features} outputs, which AWQ cannot hold with group size "
                f"{group}: it needs a multiple of the group size and one of 8"
            )
        self.register_buffer("qweight", torch.empty((in_features, out_features // 8), dtype=torch.int32))
        self.register_buffer("qzeros", torch.empty((in_features // group, out_features // 8), dtype=torch.int32))
        self.register_buffer("scales", torch.empty((in_features // group, out_features), dtype=torch.float16))
        self.register_buffer("bias", torch.empty(out_features, dtype=torch.float32) if bias else None)
        self._kernel: LinearKernel | None = None

    @torch.inference_mode(False)  # the kernel keeps tensors, which must be usable in and out of inference mode
    def build(self, kernels: Kernels) -> None:
        """Repack for this machine and release the container. Raises CheckpointError if a value is not finite."""
        assert self.qweight is not None
        assert self.qzeros is not None
        assert self.scales is not None
        for part, tensor in (("scales", self.scales), ("bias", self.bias)):
            if tensor is not None and not tensor.isfinite().all():
                raise CheckpointError(f"{self.name}.{part} has values that are not finite; the weights are damaged")
        weight = unpack_gemm(self.qweight, self.qzeros, self.scales)
        self._kernel = kernels.linear(LinearWeight(weight, self.bias))
        self.qweight = self.qzeros = self.scales = self.bias = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., K] -> [..., N], in x's dtype. No gradient flows through it."""
        if self._kernel is None:
            raise IntegrationError(f"{self.name} was not built: load the model with from_pretrained")
        if x.device.type != "cpu":
            raise IntegrationError(f"{self.name} runs on the CPU, and its input is on {x.device}; keep the model there")
        y = self._kernel(x.detach().reshape(-1, self.in_features).float())
        return y.to(x.dtype, copy=True).view(*x.shape[:-1], self.out_features)  # the kernel may reuse its buffer

    def extra_repr(self) -> str:
        """What `print(model)` says."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bits=4"

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        if self._kernel is not None:
            raise IntegrationError(
                f"{self.name} was repacked for this machine and no longer has AWQ's tensors; "
                "the repository that the model was loaded from has them: copy its folder"
            )
        super()._save_to_state_dict(destination, prefix, keep_vars)
