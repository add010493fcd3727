"""The adapters that are loaded, and what they add to a pass in which each sequence has its own, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from halfbyte.engine.lora import read_adapter
from halfbyte.errors import AdapterError
from halfbyte.kernels.interface import LinearWeight
from halfbyte.kernels.reference import linear_by_row

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from halfbyte.checkpoint.config import ModelConfig
    from halfbyte.engine.lora import Adapter
    from halfbyte.engine.ranks import Ranks
    from halfbyte.models.network import AdaptLayer
    from halfbyte.models.share import Share


class Adapters:
    """By name. One that is dropped serves the requests that have it to their end."""

    def __init__(
        self, config: ModelConfig, device: torch.device, share: Share | None, ranks: Ranks | None, *, enabled: bool
    ) -> None:
        """share: what of the network is here, and of each adapter. ranks: the processes that have the rest."""
        self._config = config if share is None else share.whole
        self._share, self._ranks = share, ranks
        self._device = device
        self._enabled = enabled
        self._loaded: dict[str, Adapter] = {}
        self._loadings = 0

    @property
    def names(self) -> list[str]:
        """Of what is loaded."""
        return sorted(self._loaded)

    def load(self, name: str, folder: str | Path) -> None:
        """Load an adapter in PEFT's format. Raises AdapterError if it does not fit the model, or the name is taken."""
        if not self._enabled:
            raise AdapterError("adapters need an engine that was started with enable_lora=True (--enable-lora)")
        if name in self._loaded:
            raise AdapterError(f"an adapter named {name!r} is loaded already; unload it first, or choose another name")
        self._loadings += 1
        adapter = read_adapter(folder, name, self._loadings, self._config, self._device, self._share)
        if self._ranks is not None:
            self._ranks.load_adapter(adapter.number, name, folder)
        self._loaded[name] = adapter

    def unload(self, name: str) -> None:
        """Drop an adapter. Raises AdapterError if it is not there."""
        adapter = self.get(name)
        assert adapter is not None
        if self._ranks is not None:
            self._ranks.unload_adapter(adapter.number)
        del self._loaded[name]

    def get(self, name: str | None) -> Adapter | None:
        """The adapter of that name; None for None. Raises AdapterError if there is no such."""
        if name is None:
            return None
        if name not in self._loaded:
            there = ", ".join(self.names) or "none"
            raise AdapterError(f"there is no adapter {name!r}; loaded are: {there}")
        return self._loaded[name]


def for_pass(parts: Sequence[tuple[Adapter | None, int]]) -> AdaptLayer | None:
    """What is added in a pass whose sequences have these adapters and so many tokens each; None if none has one."""
    rows: dict[Adapter, list[int]] = {}
    first = 0
    for adapter, count in parts:
        if adapter is not None:
            rows.setdefault(adapter, []).extend(range(first, first + count))
        first += count
    if not rows:
        return None
    places = [(adapter, torch.tensor(where)) for adapter, where in rows.items()]

    def adapt(span: int, name: str, x: torch.Tensor, y: torch.Tensor) -> None:
        for adapter, where in places:
            for part in adapter.parts.get((span, name), ()):
                low = linear_by_row(x[where], LinearWeight(part.a))
                y[where, part.outputs] += linear_by_row(low, LinearWeight(part.b))

    return adapt
