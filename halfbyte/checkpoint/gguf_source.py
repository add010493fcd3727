"""A model in a GGUF file: any type that the gguf package dequantizes, under Hugging Face names."""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import torch
from gguf.constants import GGMLQuantizationType

from halfbyte.checkpoint.gguf_card import model_card
from halfbyte.checkpoint.gguf_config import hf_config, special_tokens
from halfbyte.checkpoint.gguf_header import GGUFTensor, read_header
from halfbyte.checkpoint.gguf_names import INTERLEAVED_ROPE, ROPE_FACTORS, hf_name, interleaved_heads
from halfbyte.checkpoint.gguf_tokenizer import files_from_metadata
from halfbyte.checkpoint.source import TensorInfo
from halfbyte.errors import CheckpointError, SourceError, TokenizerError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

_KEPT = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}
_FROM_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


class GGUFSource:
    """A .gguf file. Opening it reads its header; each tensor is dequantized when it is read.

    Quantized types come as float32; F16 and BF16 as they are.
    """

    def __init__(self, path: Path, spec: str | None = None):
        self.path = path
        self._spec = str(path) if spec is None else spec
        self._header = read_header(path, self._data)
        parts = self.metadata.get("split.count")
        if isinstance(parts, int) and parts > 1:
            raise SourceError(
                f"{path} is one part of a split GGUF; join its {parts} parts with llama-gguf-split --merge"
            )
        self._by_name = {hf_name(name): tensor for name, tensor in self._header.tensors.items() if name != ROPE_FACTORS}

    @property
    def spec(self) -> str:
        """The source as the user wrote it."""
        return self._spec

    @property
    def folder(self) -> Path | None:
        """None: a GGUF file is not in Hugging Face form."""
        return None

    @property
    def metadata(self) -> dict[str, Any]:
        """The file's own metadata, under its own keys (general.license, general.name, ...)."""
        return self._header.metadata

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json made from the metadata. Raises ConfigError for what is not supported."""
        return hf_config(
            self._header,
            str(self.path),
            str(self._dtype).removeprefix("torch."),
            lambda: self._dequantize(self._header.tensors[ROPE_FACTORS]).float().numpy(),
        )

    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor under its Hugging Face name."""
        return {
            name: TensorInfo(_KEPT.get(tensor.type, torch.float32), tensor.shape, tensor.nbytes)
            for name, tensor in self._by_name.items()
        }

    def read(self, name: str) -> torch.Tensor:
        """Dequantize one tensor, in the row order that Hugging Face's rotary embedding expects."""
        if name not in self._by_name:
            raise CheckpointError(f"{self.path}: there is no tensor {name}")
        return self.in_hf_order(name, self._dequantize(self._by_name[name]))

    def release(self) -> None:
        """See Source."""
        self.__dict__.pop("_data", None)

    def in_hf_order(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """Rows of a tensor as they lie in the file, in the order that Hugging Face's rotary embedding expects."""
        heads = interleaved_heads(self._by_name[name].name)
        if heads is None or str(self.metadata.get("general.architecture")) not in INTERLEAVED_ROPE:
            return rows
        count = self.config["num_attention_heads" if heads == "q" else "num_key_value_heads"]
        return separate_halves(rows, count, f"{self.path}: {name}")

    def type_of(self, name: str) -> GGMLQuantizationType:
        """The type in which a tensor is stored."""
        return self._by_name[name].type

    def encoded(self, name: str) -> tuple[GGMLQuantizationType, torch.Tensor]:
        """A tensor's type and its bytes as they lie in the file, uint8 [..., bytes of a row], rows in its own order."""
        tensor = self._by_name[name]
        raw = np.array(self._data[tensor.offset : tensor.offset + tensor.nbytes])
        return tensor.type, torch.from_numpy(raw).view(*tensor.shape[:-1], -1)

    def origin(self, name: str) -> str:
        """The file."""
        return str(self.path)

    def files(self) -> list[str]:
        """The small files that a Hugging Face folder would have, as far as the metadata gives them."""
        card = [] if model_card(self.metadata) is None else ["README.md"]
        return sorted(["config.json", *card, *self._tokenizer_files])

    def file(self, name: str) -> bytes | None:
        """The contents of one of them. Raises TokenizerError if the file's tokenizer is asked for but unusable."""
        if name == "config.json":
            return _as_json(self.config)
        if name == "README.md":
            return model_card(self.metadata)
        return self._tokenizer_files.get(name) if name in _FROM_TOKENIZER else None

    @cached_property
    def _data(self) -> npt.NDArray[np.uint8]:
        try:
            if self.path.stat().st_size == 0:
                raise CheckpointError(f"{self.path}: the file is empty; download it again")
            return np.memmap(self.path, dtype=np.uint8, mode="r").view(np.ndarray)
        except (OSError, ValueError) as error:
            raise SourceError(f"{self.path}: cannot be read: {error}") from error

    @property
    def _dtype(self) -> torch.dtype:
        """What the big tensors come in."""
        embedding = self._header.tensors.get("token_embd.weight")
        return _KEPT.get(embedding.type, torch.float32) if embedding else torch.float32

    def _dequantize(self, tensor: GGUFTensor) -> torch.Tensor:
        raw = self._data[tensor.offset : tensor.offset + tensor.nbytes]
        if tensor.type in _KEPT:
            return torch.from_numpy(np.array(raw)).view(_KEPT[tensor.type]).reshape(tensor.shape)
        try:
            with np.errstate(all="ignore"):  # values that are not finite are found and named by who asked for them
                values = gguf.dequantize(raw.reshape(*tensor.shape[:-1], -1), tensor.type)
        except Exception as error:  # whatever the package makes of damaged blocks or a type it cannot read
            reason = f"{type(error).__name__}: {error}"
            raise CheckpointError(
                f"{self.path}: tensor {tensor.name} of type {tensor.type.name} cannot be dequantized: {reason}"
            ) from error
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).reshape(tensor.shape)

    @cached_property
    def _tokenizer_files(self) -> dict[str, bytes]:
        if "tokenizer.ggml.tokens" not in self.metadata:
            return {}
        try:
            made = files_from_metadata(self.metadata)
        except TokenizerError as error:
            raise TokenizerError(f"{self.path}: {error}") from error
        return {"generation_config.json": _as_json(special_tokens(self.metadata)), **made}


def _as_json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def separate_halves(rows: torch.Tensor, heads: int, where: str) -> torch.Tensor:
    """Undo llama.cpp's reordering of q and k rows.

    Its rotary embedding turns neighbouring rows 2i, 2i + 1 of a head together where Hugging Face's turns rows i and
    i + d/2, so it stores the two halves of each head interleaved. rows: [heads * d, K], or [heads * d] for a bias.
    """
    if rows.shape[0] % (2 * heads):
        raise CheckpointError(f"{where}: {rows.shape[0]} rows are not a whole number of {heads} heads")
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)
