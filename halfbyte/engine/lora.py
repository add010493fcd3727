"""Reads a LoRA adapter (arXiv:2106.09685) in PEFT's format: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from halfbyte.errors import AdapterError

if TYPE_CHECKING:
    import torch

    from halfbyte.checkpoint.config import ModelConfig
    from halfbyte.models.share import Share

NAME = re.compile(
    r"(?:base_model\.model\.)?model\.layers\.(\d+)\.(self_attn|mlp)\.(\w+)_proj\.lora_([AB])(?:\.default)?\.weight"
)
STACKED = {"q": "qkv", "k": "qkv", "v": "qkv", "o": "o", "gate": "gate_up", "up": "gate_up", "down": "down"}


@dataclass(frozen=True, slots=True)
class Part:
    """What is added to some outputs of a linear: y[:, outputs] += (x @ a.T) @ b.T."""

    a: torch.Tensor  # float32 [r, K]
    b: torch.Tensor  # float32 [N, r], multiplied by the adapter's scale
    outputs: slice


@dataclass(slots=True, eq=False)
class Adapter:
    """An adapter in memory. Parts are found by (span, name of the stacked linear), as kernels know them."""

    name: str
    number: int  # of the loading: no two adapters share one, not even one loaded twice
    rank: int
    parts: dict[tuple[int, str], list[Part]] = field(default_factory=dict)


def read_adapter(
    folder: str | Path,
    name: str,
    number: int,
    config: ModelConfig,
    device: torch.device,
    share: Share | None = None,
) -> Adapter:
    """Raises AdapterError naming the file, and the field or tensor.

    share: what of it is wanted, as a process has it of the network of `config`; None: all.
    """
    folder = Path(folder)
    settings = _settings(folder / "adapter_config.json")
    path = folder / "adapter_model.safetensors"
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{path} cannot be read: {error}") from error
    pairs: dict[tuple[int, str], dict[str, torch.Tensor]] = {}
    for tensor_name, tensor in tensors.items():
        match = NAME.fullmatch(tensor_name)
        if not match or match[3] not in STACKED or int(match[1]) >= config.num_layers:
            raise AdapterError(
                f"{path}: {tensor_name} is for no linear of this model; adapters may change the q, k, v, o, gate, up "
                f"and down projections of its {config.num_layers} layers"
            )
        if not bool(tensor.isfinite().all()):
            raise AdapterError(f"{path}: {tensor_name} has values that are not finite")
        pairs.setdefault((int(match[1]), match[3]), {})[match[4]] = tensor
    if not pairs:
        raise AdapterError(f"{path} has no tensors")
    adapter = Adapter(name, number, max(p["A"].shape[0] for p in pairs.values() if "A" in p))
    for (layer, projection), pair in sorted(pairs.items()):
        place = f"layer {layer}, {projection}_proj"
        a, b = pair.get("A"), pair.get("B")
        if a is None or b is None:
            raise AdapterError(f"{path}: {place} has lora_{'B' if a is None else 'A'} and not the other one")
        inputs, outputs = shape_of(projection, config)
        if a.shape[1:] != (inputs,) or b.shape != (outputs.stop - outputs.start, a.shape[0]):
            raise AdapterError(
                f"{path}: {place} has lora_A {list(a.shape)} and lora_B {list(b.shape)}; this model's linear has "
                f"{inputs} inputs and {outputs.stop - outputs.start} outputs"
            )
        scale = scaling(settings, layer, projection, a.shape[0])
        if share is not None:
            a, b, outputs = _shared(share, projection, a, b)
        stacked = STACKED[projection]
        part = Part(a.float().contiguous().to(device), (b.float() * scale).contiguous().to(device), outputs)
        adapter.parts.setdefault((layer + (stacked != "qkv"), stacked), []).append(part)
    return adapter


def _shared(
    share: Share, projection: str, a: torch.Tensor, b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, slice]:
    """A pair as it acts on the inputs and outputs that a share has, and where these lie within the stacked linear."""
    head_dim = share.whole.head_dim
    rows, columns = share.outputs(projection, head_dim), share.inputs(projection, head_dim)
    if rows is not None:
        b = b[rows.start : rows.stop]
    if columns is not None:
        a = a[:, columns.start : columns.stop]
    return a, b, shape_of(projection, share.config)[1]


def shape_of(projection: str, config: ModelConfig) -> tuple[int, slice]:
    """Inputs of a projection, and its outputs within the stacked linear."""
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    hidden, mlp = config.hidden_size, config.intermediate_size
    return {
        "q": (hidden, slice(0, q)),
        "k": (hidden, slice(q, q + kv)),
        "v": (hidden, slice(q + kv, q + 2 * kv)),
        "o": (q, slice(0, hidden)),
        "gate": (hidden, slice(0, mlp)),
        "up": (hidden, slice(mlp, 2 * mlp)),
        "down": (mlp, slice(0, hidden)),
    }[projection]


def scaling(settings: dict[str, Any], layer: int, projection: str, rank: int) -> float:
    """lora_alpha / r, or / sqrt(r) with rsLoRA (arXiv:2312.03732); patterns name modules of their own alpha."""
    module = f"model.layers.{layer}.{'self_attn' if projection in 'qkvo' else 'mlp'}.{projection}_proj"
    patterns = settings.get("alpha_pattern") or {}
    own = [alpha for key, alpha in patterns.items() if re.match(rf"(.*\.)?({key})$", module)]
    alpha = float(own[0] if own else settings.get("lora_alpha", 8))
    return alpha / (rank**0.5 if settings.get("use_rslora") else rank)


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path} cannot be read: {error}") from error
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        kind = settings.get("peft_type") if isinstance(settings, dict) else settings
        raise AdapterError(f"{path}: peft_type is {kind!r}; only LORA is supported")
    for field_, usual in (("bias", "none"), ("use_dora", False), ("fan_in_fan_out", False), ("modules_to_save", None)):
        if settings.get(field_, usual) not in (usual, None, []):
            raise AdapterError(
                f"{path}: {field_} is {settings[field_]!r}, which is not supported; train with {usual!r}"
            )
    return settings
