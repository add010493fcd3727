"""One idea of where a model comes from: its config, its tensors under their Hugging Face names, its small files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a header says of a tensor, known without reading its data.

    `dtype` is the type that `Source.read` returns; `nbytes` is what it takes on disk.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    nbytes: int


class Source(Protocol):
    """A model wherever it lies. The rest of the code never asks whether it is a folder, the Hub, a GGUF or a wheel."""

    @property
    def spec(self) -> str:
        """The source as the user wrote it, for messages and model cards."""

    @property
    def folder(self) -> Path | None:
        """The folder that holds it in Hugging Face form, if there is one."""

    @property
    def config(self) -> dict[str, Any]:
        """The contents of config.json (made from the metadata where the source has none)."""

    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor by its Hugging Face name, from headers alone."""

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor from disk. Raises CheckpointError, naming file and tensor, if it cannot be had whole."""

    def release(self) -> None:
        """Give back what reading has mapped. Tensors that were read keep what they need; reading again maps again."""

    def origin(self, name: str) -> str:
        """The file that holds a tensor, for messages."""

    def files(self) -> list[str]:
        """Names of the small files (tokenizer.json, generation_config.json, LICENSE, ...), without weights."""

    def file(self, name: str) -> bytes | None:
        """The contents of a small file, or None if there is none of that name."""
