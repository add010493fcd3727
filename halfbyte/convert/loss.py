"""How far what was written is from what was read, tensor by tensor, summed up by kind."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from halfbyte.convert.request import KindLoss

if TYPE_CHECKING:
    import torch

_LAYER = re.compile(r"model\.layers\.\d+\.(.+)\.(?:weight|bias)")
_OUTER = {"model.embed_tokens.weight": "embedding", "lm_head.weight": "head", "model.norm.weight": "norms"}


def kind_of(name: str) -> str:
    """The kind of a tensor by its Hugging Face name: self_attn.q_proj, embedding, head, norms, biases."""
    if name.endswith(".bias"):
        return "biases"
    match = _LAYER.fullmatch(name)
    if match is None:
        return _OUTER.get(name, "other")
    return "norms" if "norm" in match[1] else match[1]


@dataclass(slots=True)
class _Sums:
    types: Counter[str] = field(default_factory=Counter)
    error: float = 0.0
    power: float = 0.0
    weighted_error: float = 0.0
    weighted_power: float = 0.0


class Losses:
    """Takes in tensors one at a time."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Sums] = {}

    def add(
        self, name: str, type_name: str, before: torch.Tensor, after: torch.Tensor, importance: torch.Tensor | None
    ) -> None:
        """A tensor before and after; importance [K] of its inputs, or None."""
        sums = self._kinds.setdefault(kind_of(name), _Sums())
        sums.types[type_name] += 1
        before = before.float()
        delta = (after.float() - before).square_()
        power = before.square()
        sums.error += float(delta.sum())
        sums.power += float(power.sum())
        if importance is not None:
            sums.weighted_error += float((delta @ importance).sum())
            sums.weighted_power += float((power @ importance).sum())

    def by_kind(self) -> list[KindLoss]:
        """The losses, in the order in which the kinds were met."""
        return [
            KindLoss(
                kind,
                dict(sums.types),
                _ratio(sums.error, sums.power),
                _ratio(sums.weighted_error, sums.weighted_power) if sums.weighted_power else None,
            )
            for kind, sums in self._kinds.items()
        ]


def _ratio(error: float, power: float) -> float:
    return float((error / power) ** 0.5) if power else 0.0
