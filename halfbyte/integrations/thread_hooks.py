"""Keeps torch and the kernels from fighting for the cores where the passes are not our own loop's."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from torch import nn

    from halfbyte.kernels.interface import Kernels


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use that many threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def share_threads(model: nn.Module, kernels: Kernels) -> None:
    """Hold `kernels.threads` during each forward pass of the model, also of one that fails."""
    held: list[AbstractContextManager[None]] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        threads = kernels.threads(_rows(args, kwargs))
        threads.__enter__()
        held.append(threads)

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if held:  # empty if another hook failed before ours was reached
            held.pop().__exit__(None, None, None)

    model.register_forward_pre_hook(enter, with_kwargs=True)
    model.register_forward_hook(leave, always_call=True)


def _rows(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Tokens in a pass: those of input_ids [B, T], or of inputs_embeds [B, T, D]."""
    for value in (kwargs.get("input_ids"), kwargs.get("inputs_embeds"), *args):
        if isinstance(value, torch.Tensor):
            return value.shape[:2].numel()
    return 1
