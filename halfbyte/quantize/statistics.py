"""What calibration leaves of a linear's input: H = sum of x xᵀ, and the mean of |x|.

Everything in a block but softmax and SiLU is linear in the activations, so the squared error of a linear's output for
any change dW of its weight is tr(dW H dWᵀ): no candidate needs another forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from halfbyte.quantize.product import add_products

COLUMNS = 256  # H is symmetric: it is gathered in column blocks of this width, on and below the diagonal
ON_A_GPU = 1024  # the same there


@dataclass(slots=True)
class InputStatistics:
    """Of a linear with K inputs. H: [K, K] float32; mean_abs: [K] float32."""

    H: torch.Tensor
    abs_sum: torch.Tensor
    rows: int = 0

    @classmethod
    def empty(cls, width: int, device: torch.device | str = "cpu") -> InputStatistics:
        """Nothing seen yet."""
        return cls(torch.zeros(width, width, device=device), torch.zeros(width, device=device))

    @property
    def mean_abs(self) -> torch.Tensor:
        """Mean of |x| per input channel."""
        return self.abs_sum / max(self.rows, 1)

    def add(self, x: torch.Tensor) -> None:
        """Take in x [T, K]."""
        add_products(self.H, x, x, below=ON_A_GPU if x.is_cuda else COLUMNS)
        self.abs_sum += x.abs().sum(0)
        self.rows += x.shape[0]

    def finish(self) -> None:
        """Mirror H above its diagonal. To be called once, after the last `add`."""
        width, columns = self.H.shape[0], ON_A_GPU if self.H.is_cuda else COLUMNS
        for begin in range(0, width, columns):
            end = min(begin + columns, width)
            self.H[begin:end, end:] = self.H[end:, begin:end].T
            square = self.H[begin:end, begin:end]
            square.copy_(square.tril() + square.tril(-1).T)

    def rescale(self, scale: torch.Tensor) -> None:
        """Make these the statistics of the input divided by `scale` [K], channel by channel."""
        self.H.div_(scale).div_(scale[:, None])
        self.abs_sum /= scale


def output_error(delta: torch.Tensor, H: torch.Tensor) -> torch.Tensor:
    """tr(delta H deltaᵀ), the squared error of the outputs over the calibration tokens, for delta [N, K]."""
    return torch.dot(torch.mm(delta, H).flatten(), delta.flatten())
