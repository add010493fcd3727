"""What there is to say of a model before anything of it is computed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from halfbyte.checkpoint.expected import linear_shapes
from halfbyte.checkpoint.gguf_source import GGUFSource
from halfbyte.checkpoint.size import awq_size, bytes_by_part, linear_weight_count, weight_count
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.errors import TokenizerError

if TYPE_CHECKING:
    from halfbyte.checkpoint.checkpoint import Checkpoint
    from halfbyte.checkpoint.config import ModelConfig
    from halfbyte.checkpoint.source import Source

GROUP_SIZES = (128, 64, 32)
CONTAINERS = {".safetensors": "safetensors", ".gguf": "GGUF", ".bin": "PyTorch"}
PLACEHOLDER = "{prompt}"


@dataclass(frozen=True, slots=True)
class Summary:
    """Sizes are bytes of tensor data on disk. Quantization fields are None for a checkpoint that is not quantized."""

    model: str
    architecture: str
    container: str
    files: int
    quant_method: str | None
    bits: int | None
    group_size: int | None
    quantization: str | None  # all that a person may want to know of how it is quantized
    layers: int
    context: int
    vocab_size: int
    tie_word_embeddings: bool
    weights: int
    parts: dict[str, int]
    bytes: int
    bits_per_weight: float
    bits_per_linear_weight: float  # of attention and MLP, which AWQ quantizes; their biases included
    awq_bytes: dict[int, int]  # what the model takes as AWQ, by group size, where that divides every layer
    prompt_template: str | None  # the chat template, with {prompt} for what the user says
    chat_template: str | None  # the same as Jinja


def summarise(checkpoint: Checkpoint) -> Summary:
    """Read headers and small files; no weights."""
    source, config, quantized = checkpoint.source, checkpoint.config, checkpoint.container
    tensors = source.tensors()
    parts = bytes_by_part(tensors)
    origins = {source.origin(name) for name in tensors}
    total, weights = sum(parts.values()), weight_count(config)
    prompt_template, chat_template = templates(source)
    return Summary(
        model=source.spec,
        architecture=config.architecture,
        container=container_of(next(iter(origins))),
        files=len(origins),
        quant_method=quantized.name if quantized else None,
        bits=quantized.bits if quantized else None,
        group_size=quantized.group_size if quantized else None,
        quantization=quantized.describe() if quantized else types_of_gguf(source),
        layers=config.num_layers,
        context=config.max_position_embeddings,
        vocab_size=config.vocab_size,
        tie_word_embeddings=config.tie_word_embeddings,
        weights=weights,
        parts=parts,
        bytes=total,
        bits_per_weight=8 * total / weights,
        bits_per_linear_weight=8 * (parts["attention"] + parts["mlp"]) / linear_weight_count(config),
        awq_bytes={g: awq_size(config, g) for g in dividing_group_sizes(config)},
        prompt_template=prompt_template,
        chat_template=chat_template,
    )


def types_of_gguf(source: Source) -> str | None:
    """The types of a GGUF file's matrices, most frequent first; None for floats alone, and for other sources."""
    if not isinstance(source, GGUFSource):
        return None
    types = Counter(source.type_of(name).name for name, tensor in source.tensors().items() if len(tensor.shape) > 1)
    return None if types.keys() <= {"F32", "F16", "BF16"} else ", ".join(f"{n} {t}" for t, n in types.most_common())


def container_of(file: str) -> str:
    """The kind of file that holds tensors, by its name."""
    suffix = PurePath(file).suffix
    return CONTAINERS.get(suffix, suffix)


def dividing_group_sizes(config: ModelConfig) -> list[int]:
    """Those of GROUP_SIZES that divide the inputs of every linear."""
    inputs = {k for _, k in linear_shapes(config).values()}
    return [g for g in GROUP_SIZES if not any(k % g for k in inputs)]


def templates(source: Source) -> tuple[str | None, str | None]:
    """(a one-turn prompt with a placeholder, the Jinja source); None for what the repository lacks."""
    try:
        tokenizer = Tokenizer.from_source(source)
    except TokenizerError:
        return None, None
    try:
        return tokenizer.render_chat([{"role": "user", "content": PLACEHOLDER}]), tokenizer.chat_template
    except TokenizerError:
        return None, tokenizer.chat_template
