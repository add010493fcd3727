"""Tokens drawn from logits on the CPU by our own C (cpu/native/draw.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# draw.h's DrawRow
ROW = np.dtype(
    [
        ("logits", np.uint64),
        ("allowed", np.uint64),
        *((name, np.float64) for name in ("temperature", "top_p", "min_p", "uniform")),
        *((name, np.int64) for name in ("top_k", "is_trial", "first", "token")),
    ]
)


def can_draw() -> bool:
    """Whether our own C is there."""
    from halfbyte.kernels.cpu.library import load_library  # noqa: PLC0415  a GPU's engine needs no compiler

    return load_library() is not None


def draw_tokens(
    logits: torch.Tensor,
    places: list[int],
    numbers: np.ndarray,
    uniform: np.ndarray,
    *,
    allowed: list[int] | int = 0,
    first: list[int] | int = -1,
    trial: list[bool] | bool = False,
) -> tuple[list[int], list[int]]:
    """A token for each of these rows of float32 logits [B, V], -1 where none has a chance; and whether trials hold.

    numbers: float64 [rows, 4]: temperature (0 takes the likeliest), top_p, top_k, min_p. uniform: [rows], in [0, 1).
    allowed: of each, the address of a bit for each token, the first the lowest of a uint32, or 0 for all tokens.
    first: of each, a token to take if top_p, top_k and min_p leave it. trial: by temperature alone; it holds (1) if
    top_p, top_k and min_p leave the token in whatever part of the vocabulary it belongs to, as far as that can be told.
    """
    from halfbyte.kernels.cpu.library import load_library  # noqa: PLC0415  see above

    library = load_library()
    assert library is not None
    assert logits.is_contiguous()
    rows = np.empty(len(places), dtype=ROW)
    beginning, stride = logits.data_ptr(), logits.shape[1] * 4
    rows["logits"] = [beginning + place * stride for place in places]
    rows["allowed"], rows["first"], rows["is_trial"], rows["uniform"] = allowed, first, trial, uniform
    rows["temperature"], rows["top_p"], rows["top_k"], rows["min_p"] = numbers.T
    library("hb_draw", rows.ctypes.data, len(rows), logits.shape[1])
    return rows["token"].tolist(), rows["is_trial"].tolist()
