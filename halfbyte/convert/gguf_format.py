"""gguf:TYPE: one GGUF file, from any source."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import torch
from gguf.constants import GGMLQuantizationType

from halfbyte.checkpoint.expected import expected_tensors
from halfbyte.checkpoint.ggml import encode
from halfbyte.checkpoint.gguf_card import FIELDS
from halfbyte.checkpoint.gguf_file import Entry, check_place, write_gguf
from halfbyte.checkpoint.gguf_metadata import lost_settings, network_metadata, rope_factors
from halfbyte.checkpoint.gguf_mixtures import MIXTURES, Choice, Network, choose_type, mixture_name
from halfbyte.checkpoint.gguf_names import INTERLEAVED_ROPE, ROPE_FACTORS, gguf_name, interleaved_heads
from halfbyte.checkpoint.gguf_source import GGUFSource
from halfbyte.checkpoint.gguf_tokenizer_metadata import tokenizer_metadata
from halfbyte.checkpoint.size import weight_count
from halfbyte.convert.floats import float_tensor
from halfbyte.convert.importance import check_fits, importance_of
from halfbyte.convert.loss import Losses
from halfbyte.convert.request import ConvertReport, Request
from halfbyte.errors import QuantizeError
from halfbyte.quantize.card import model_name, original_card

if TYPE_CHECKING:
    from collections.abc import Iterator

    from halfbyte.checkpoint.checkpoint import Checkpoint
    from halfbyte.checkpoint.config import ModelConfig

_OWN_KEYS = frozenset(
    {"general.architecture", "general.file_type", "general.quantization_version", "general.alignment"}
)


@torch.inference_mode()
def write_gguf_format(request: Request) -> ConvertReport:
    """Write the file. Raises a HalfbyteError, and leaves no OUT, where anything is wrong."""
    started = time.perf_counter()
    checkpoint, options = request.checkpoint, request.options
    mixture = mixture_name(request.settings)
    if request.out.suffix != ".gguf":
        raise QuantizeError(f"{request.out}: gguf:{mixture} is one file; let its name end in .gguf")
    config = checkpoint.config
    choices = plan_types(config, mixture, with_importance=options.imatrix is not None)
    entries = plan_entries(config, choices)
    check_place(request.out, sum(entry.nbytes for entry in entries), overwrite=options.overwrite)
    metadata = file_metadata(checkpoint, mixture)
    importance = importance_of(checkpoint, options, request.progress)
    if options.imatrix is not None:
        metadata["quantize.imatrix.file"] = options.imatrix
        metadata["quantize.imatrix.entries_count"] = len(importance)
    losses = Losses()
    write_gguf(request.out, metadata, entries, _data(request, choices, importance, losses))
    size = request.out.stat().st_size
    return ConvertReport(
        source=checkpoint.source.spec,
        out=str(request.out),
        format=f"gguf:{mixture}",
        out_bytes=size,
        bits_per_weight=8 * size / weight_count(config),
        seconds=round(time.perf_counter() - started, 2),
        losses=losses.by_kind(),
        notes=[*fallback_notes(choices), *lost_settings(config)],
    )


def plan_types(config: ModelConfig, mixture: str, *, with_importance: bool) -> dict[str, Choice]:
    """The type of every tensor, by Hugging Face name."""
    network = Network(
        config.num_layers, config.num_heads, config.num_kv_heads, config.tie_word_embeddings, with_importance
    )
    shapes = expected_tensors(config, None)
    return {name: choose_type(mixture, gguf_name(name), shape, network) for name, shape in shapes.items()}


def plan_entries(config: ModelConfig, choices: dict[str, Choice]) -> list[Entry]:
    """The tensors of the file in their order; rope_freqs first, where llama3 scaling needs it."""
    shapes = expected_tensors(config, None)
    factors = rope_factors(config)
    first = [] if factors is None else [Entry(ROPE_FACTORS, factors.shape, GGMLQuantizationType.F32)]
    return first + [Entry(gguf_name(name), shape, choices[name].type) for name, shape in shapes.items()]


def fallback_notes(choices: dict[str, Choice]) -> list[str]:
    """Which types gave way to others, and for how many tensors."""
    swaps: dict[tuple[str, str], int] = {}
    for choice in choices.values():
        if choice.type is not choice.wanted:
            pair = (choice.wanted.name, choice.type.name)
            swaps[pair] = swaps.get(pair, 0) + 1
    return [
        f"{count} tensors are {used} instead of {wanted}, whose blocks do not divide their rows"
        for (wanted, used), count in swaps.items()
    ]


def _data(
    request: Request, choices: dict[str, Choice], importance: dict[str, torch.Tensor], losses: Losses
) -> Iterator[torch.Tensor]:
    """The bytes of each tensor in turn; what they lose is taken down on the way."""
    checkpoint = request.checkpoint
    factors = rope_factors(checkpoint.config)
    if factors is not None:
        yield torch.from_numpy(factors).view(torch.uint8)
    request.progress.start("encoding tensors", len(choices))
    for done, (name, choice) in enumerate(choices.items(), start=1):
        target = gguf_name(name)
        weight = _reordered(float_tensor(checkpoint, name), target, checkpoint.config)
        channels = importance.get(target) if weight.ndim == 2 else None
        if channels is not None:
            check_fits(target, channels, weight.shape[-1], str(request.options.imatrix))
        encoded = _as_it_is(checkpoint, name, choice.type)
        if encoded is None:
            encoded = encode(weight, choice.type, channels, name=name)
        losses.add(name, choice.type.name, weight, _decoded(encoded, choice.type), channels)
        yield encoded
        request.progress.step(done)


def _as_it_is(checkpoint: Checkpoint, name: str, kind: GGMLQuantizationType) -> torch.Tensor | None:
    """The bytes that a GGUF source has in the same type; fitting them anew could only lose."""
    source = checkpoint.source
    if not isinstance(source, GGUFSource):
        return None
    found, data = source.encoded(name)
    return data if found is kind else None


def _reordered(weight: torch.Tensor, target: str, config: ModelConfig) -> torch.Tensor:
    """Rows of q and k with the two halves of each head interleaved, where llama.cpp turns neighbours together."""
    heads = interleaved_heads(target)
    if heads is None or network_metadata(config)["general.architecture"] not in INTERLEAVED_ROPE:
        return weight
    count = config.num_heads if heads == "q" else config.num_kv_heads
    return weight.reshape(count, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def _decoded(encoded: torch.Tensor, kind: GGMLQuantizationType) -> torch.Tensor:
    """What a reader makes of the bytes, by the gguf package: the loss that is told is that of the file."""
    floats = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    if kind.name in floats:
        return encoded.view(floats[kind.name])
    return torch.from_numpy(np.ascontiguousarray(gguf.dequantize(encoded.numpy(), kind)))


def file_metadata(checkpoint: Checkpoint, mixture: str) -> dict[str, Any]:
    """All keys of the file: the model's name and licence, its network, its tokenizer."""
    source, config = checkpoint.source, checkpoint.config
    general = _general(checkpoint)
    return {
        **network_metadata(config),
        "general.type": "model",
        **general,
        "general.quantized_by": "halfbyte",
        "general.quantization_version": 2,
        "general.file_type": int(MIXTURES[mixture][1]),
        **tokenizer_metadata(source, config.vocab_size),
    }


def _general(checkpoint: Checkpoint) -> dict[str, Any]:
    source = checkpoint.source
    if isinstance(source, GGUFSource):
        return {k: v for k, v in source.metadata.items() if k.startswith("general.") and k not in _OWN_KEYS}
    front, _ = original_card(source)
    found: dict[str, Any] = {"general.name": model_name(source, front), "general.size_label": _size_label(checkpoint)}
    for field, key in FIELDS.items():
        value = front.get(field)
        if key in {"general.languages", "general.datasets"}:
            value = [value] if isinstance(value, str) else value
            if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
                found[key] = value
        elif isinstance(value, str):
            found[key] = value
    return found


def _size_label(checkpoint: Checkpoint) -> str:
    count = weight_count(checkpoint.config)
    return f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.0f}M"
