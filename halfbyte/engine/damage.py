"""Finds where a pass first gave something that is not finite, by repeating it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfbyte.errors import GenerationError

if TYPE_CHECKING:
    import torch

    from halfbyte.engine.runner import Runner
    from halfbyte.engine.scheduler import Scheduled
    from halfbyte.models.network import AdaptLayer


def not_finite(runner: Runner, item: Scheduled, adapt: AdaptLayer | None) -> GenerationError:
    """The error for a sequence whose logits are not finite. Its keys and values must not have been made again."""
    parts: list[str] = []

    def watch(part: str, value: torch.Tensor) -> None:
        if not parts and not bool(value.isfinite().all()):
            parts.append(part)

    if item.sequence.block_table:
        runner.forward([item], adapt, watch)
        part = parts[0] if parts else "the output embedding"
    else:
        part = "a place that is not known: it had to give its memory back"
    return GenerationError(
        f"the network gave logits that are not finite after {len(item.sequence.token_ids)} tokens, first in {part}: "
        "its weights are damaged or too large for their type (halfbyte inspect --verify looks for damage)"
    )
