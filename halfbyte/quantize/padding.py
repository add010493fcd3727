"""A source whose MLP is wider by zeros, so that whole groups fit. Its network computes what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from halfbyte.checkpoint.source import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from halfbyte.checkpoint.source import Source

_ROWS, _COLUMNS = (".mlp.gate_proj.", ".mlp.up_proj."), ".mlp.down_proj.weight"


class PaddedSource:
    """`source` with `intermediate_size` raised to `width`."""

    def __init__(self, source: Source, width: int) -> None:
        self.source, self.width = source, width
        self.by = width - int(source.config["intermediate_size"])

    @property
    def spec(self) -> str:
        """The source's own."""
        return self.source.spec

    @property
    def folder(self) -> Path | None:
        """The source's own."""
        return self.source.folder

    @property
    def config(self) -> dict[str, Any]:
        """The source's own, wider."""
        return {**self.source.config, "intermediate_size": self.width}

    def tensors(self) -> Mapping[str, TensorInfo]:
        """The source's own, wider."""
        return {name: self._wider(name, info) for name, info in self.source.tensors().items()}

    def read(self, name: str) -> torch.Tensor:
        """The source's own, with zeros behind gate's and up's rows and down's columns."""
        tensor = self.source.read(name)
        if any(part in name for part in _ROWS):
            return F.pad(tensor, (0, 0, 0, self.by) if tensor.ndim == 2 else (0, self.by))
        return F.pad(tensor, (0, self.by)) if name.endswith(_COLUMNS) else tensor

    def release(self) -> None:
        """The source's own."""
        self.source.release()

    def origin(self, name: str) -> str:
        """The source's own."""
        return self.source.origin(name)

    def files(self) -> list[str]:
        """The source's own."""
        return self.source.files()

    def file(self, name: str) -> bytes | None:
        """The source's own."""
        return self.source.file(name)

    def _wider(self, name: str, info: TensorInfo) -> TensorInfo:
        shape = list(info.shape)
        if any(part in name for part in _ROWS):
            shape[0] += self.by
        elif name.endswith(_COLUMNS):
            shape[1] += self.by
        return TensorInfo(info.dtype, tuple(shape), info.nbytes)
