"""A finished block as it lies in the work folder: norms and biases in float16, linears packed.

Those of 4 bits are packed as AWQ's `gemm`, all others as GPTQ's second version, which holds whatever is made here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from halfbyte.checkpoint.awq import pack_gemm, unpack_gemm
from halfbyte.checkpoint.gptq import V2, GptqConfig
from halfbyte.checkpoint.int4 import IntWeight
from halfbyte.checkpoint.shard_writer import Entry, Stored
from halfbyte.checkpoint.shards import SafetensorsShard
from halfbyte.kernels.interface import AfterAttention, LinearWeight
from halfbyte.models.network import Block
from halfbyte.quantize.block import float_weight, modules, norms

if TYPE_CHECKING:
    from pathlib import Path

    from halfbyte.checkpoint.config import ModelConfig
    from halfbyte.checkpoint.container import Container
    from halfbyte.quantize.block_quantizer import QuantizedLinear


@dataclass(slots=True)
class FinishedBlock:
    """Tensors by their name within the block. A linear is in `linears`, or float in `floats` if it was kept so."""

    linears: dict[str, IntWeight]  # by module name
    floats: dict[str, torch.Tensor]  # kept linears' weights, norms, biases; float16

    def block(self, config: ModelConfig, device: torch.device | str = "cpu") -> Block:
        """The float32 block that these stand for."""

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device).float()

        def weight(module: str) -> torch.Tensor:
            if module in self.linears:
                w = self.linears[module]
                index = None if w.g_idx is None else w.g_idx.to(device)
                return replace(w, q=w.q.to(device), s=w.s.to(device), z=w.z.to(device), g_idx=index).dequantize()
            return moved(self.floats[f"{module}.weight"])

        def stacked(name: str) -> LinearWeight:
            parts = [module for module, _ in modules(config)[name]]
            biases = [self.floats.get(f"{module}.bias") for module in parts]
            given = [moved(b) for b in biases if b is not None]
            assert len(given) in (0, len(parts))
            return LinearWeight(torch.cat([weight(m) for m in parts]), torch.cat(given) if given else None)

        found = {name: moved(tensor) for name, tensor in self.floats.items() if "norm" in name}
        return Block(
            input_norm=found["input_layernorm.weight"],
            qkv=stacked("qkv"),
            q_norm=found.get("self_attn.q_norm.weight"),
            k_norm=found.get("self_attn.k_norm.weight"),
            after=AfterAttention(
                stacked("o"), found["post_attention_layernorm.weight"], stacked("gate_up"), stacked("down")
            ),
        )

    def tensors(self, container: Container | None = None) -> dict[str, torch.Tensor]:
        """What the file holds, or what a repository in another container would."""
        pack = _pack if container is None else container.pack
        packed = {f"{m}.{suffix}": t for m, w in self.linears.items() for suffix, t in pack(w).items()}
        return {name: tensor.cpu().contiguous() for name, tensor in (packed | self.floats).items()}


def finish(block: Block, linears: list[QuantizedLinear], config: ModelConfig) -> FinishedBlock:
    """What is kept of a block behind `BlockQuantizer.run`, whose floats are float16 values already."""
    floats = {name: norm.half() for name, norm in norms(block).items()}
    packed = {linear.name: linear.weight for linear in linears}
    for name, w in block.linears().items():
        begin = 0
        for module, rows in modules(config)[name]:
            part = slice(begin, begin + rows)
            begin += rows
            if w.bias is not None:
                floats[f"{module}.bias"] = w.bias[part].half()
            if module not in packed:
                floats[f"{module}.weight"] = float_weight(w)[part].half()
    return FinishedBlock(packed, floats)


def stored_entries(path: Path) -> dict[str, Entry]:
    """Where a block's file has its tensors."""
    shard = SafetensorsShard(path)
    places = shard.places()
    return {name: Entry(i.dtype, i.shape, Stored(path, places[name])) for name, i in shard.tensors.items()}


def read_packed(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a block's file as they are."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict


def read_finished(path: Path, changes: dict[str, torch.Tensor] | None = None) -> FinishedBlock:
    """A block from its file, some of its tensors exchanged for others of their name and shape."""
    tensors = read_packed(path) | (changes or {})
    linears, floats = {}, {}
    for name, tensor in tensors.items():
        module, _, suffix = name.rpartition(".")
        if suffix == "qweight":
            linears[module] = _unpack(module, tensors)
        elif suffix in ("weight", "bias"):
            floats[name] = tensor
    return FinishedBlock(linears, floats)


def _pack(weight: IntWeight) -> dict[str, torch.Tensor]:
    if weight.bits == 4 and weight.g_idx is None:
        return pack_gemm(weight)
    container = GptqConfig(weight.bits, weight.group_size, weight.g_idx is not None, checkpoint_format=V2)
    return container.pack(replace(weight, **{f: getattr(weight, f).cpu() for f in "qsz"}, g_idx=_cpu(weight.g_idx)))


def _cpu(index: torch.Tensor | None) -> torch.Tensor | None:
    return None if index is None else index.cpu()


def _unpack(module: str, tensors: dict[str, torch.Tensor]) -> IntWeight:
    own = {s: tensors[f"{module}.{s}"] for s in ("qweight", "qzeros", "scales", "g_idx") if f"{module}.{s}" in tensors}
    if "g_idx" not in own:
        return unpack_gemm(**own)
    (groups, n), k = own["scales"].shape, len(own["g_idx"])
    bits = 32 * own["qweight"].shape[0] // k
    return GptqConfig(bits, k // groups, checkpoint_format=V2).unpack(module, own, n, k)
