"""A reference model's predictions, computed once and kept, so that many models can be held against them.

Kept are the hidden states before the head, float32 [W, C - 1, D]: exact, and V / D times smaller than the logits, which
one product gives back (SmolLM2: 85 times).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from halfbyte.kernels.reference import ReferenceKernels
from halfbyte.models.attend import WholeSequences
from halfbyte.models.loader import exact_network

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from halfbyte.checkpoint.checkpoint import Checkpoint
    from halfbyte.checkpoint.config import ModelConfig
    from halfbyte.kernels.interface import LinearKernel


@dataclass(slots=True)
class KeptReference:
    """hidden [W, C - 1, D]: the states from which each window's tokens but the first are predicted."""

    config: ModelConfig
    hidden: torch.Tensor
    head: LinearKernel
    device: torch.device  # of the head

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Float32 logits [N, V] of hidden states [N, D]."""
        return self.head(hidden.to(self.device))


def keep_reference(
    checkpoint: Checkpoint, windows: torch.Tensor, path: Path, progress: Callable[[int], None] | None = None
) -> KeptReference:
    """The predictions for windows of tokens [W, C]: read from `path` if they are there, else computed and put there.

    The caller answers for `path` being of this model and these windows.
    """
    if not path.is_file():
        hidden = _compute(checkpoint, windows, progress)
        part = path.with_suffix(".part")
        save_file({"hidden": hidden}, part)
        part.replace(path)
    tied = checkpoint.config.tie_word_embeddings
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    head = checkpoint.tensor("model.embed_tokens.weight" if tied else "lm_head.weight")
    kernels = ReferenceKernels(device=device)
    return KeptReference(checkpoint.config, load_file(path)["hidden"], kernels.head(head), device)


def _compute(checkpoint: Checkpoint, windows: torch.Tensor, progress: Callable[[int], None] | None) -> torch.Tensor:
    network = exact_network(checkpoint)
    hidden = torch.empty(windows.shape[0], windows.shape[1] - 1, checkpoint.config.hidden_size)
    positions, windows = torch.arange(windows.shape[1] - 1, device=network.device), windows.to(network.device)
    for i, window in enumerate(windows):
        hidden[i] = network.forward(window[:-1], positions, WholeSequences(network.config, batch=1))
        if progress:
            progress(i + 1)
    return hidden
