"""A finished block: norms and biases in float16, linears as integers, packed as the repository's container has them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from halfbyte.checkpoint.compressed_tensors import NAME as COMPRESSED_TENSORS
from halfbyte.checkpoint.int4 import IntWeight
from halfbyte.checkpoint.shard_writer import Kind
from halfbyte.kernels.interface import AfterAttention, LinearWeight
from halfbyte.models.network import Block
from halfbyte.quantize.block import float_weight, modules, norms
from halfbyte.quantize.selection import STACKS, inputs_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from halfbyte.checkpoint.checkpoint import Checkpoint
    from halfbyte.checkpoint.config import ModelConfig
    from halfbyte.checkpoint.container import Container
    from halfbyte.quantize.block_quantizer import QuantizedLinear

NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight")
QK_NORMS = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")


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

    def tensors(self, container: Container) -> dict[str, torch.Tensor]:
        """What a repository has of it, wherever the block is."""
        packed: dict[str, torch.Tensor] = {}
        for module, w in self.linears.items():
            own = w if container.name == "awq" else _on_cpu(w)  # AWQ's words can be made on a GPU
            packed |= {f"{module}.{suffix}": tensor for suffix, tensor in container.pack(own).items()}
        return packed | self.floats


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


def read_finished(tensors: Mapping[str, torch.Tensor], container: Container, config: ModelConfig) -> FinishedBlock:
    """A block from its tensors in a repository."""
    linears, floats = {}, {}
    for stack in STACKS:
        for module, n in modules(config)[stack]:
            own = {name.removeprefix(f"{module}."): t for name, t in tensors.items() if name.startswith(f"{module}.")}
            if "weight" in own:
                floats[f"{module}.weight"] = own["weight"]
            else:
                linears[module] = container.unpack(module, own, n, inputs_of(config, stack))
            if "bias" in own:
                floats[f"{module}.bias"] = own["bias"]
    return FinishedBlock(linears, floats | {name: tensor for name, tensor in tensors.items() if "norm" in name})


def rescaled(changes: dict[str, torch.Tensor], container: Container) -> dict[str, torch.Tensor]:
    """Changed norms, and scales [K / G, N] of modules (`<module>.scales`), as a container has them."""
    if container.name != COMPRESSED_TENSORS:
        return changes
    own = {n: t for n, t in changes.items() if not n.endswith(".scales")}
    scales = {n: t for n, t in changes.items() if n.endswith(".scales")}
    return own | {f"{n.removesuffix('scales')}weight_scale": t.T.contiguous() for n, t in scales.items()}


def block_kinds(
    checkpoint: Checkpoint, layer: int, kept: frozenset[str], container: Container, bits: int
) -> dict[str, Kind]:
    """What a repository will have of a block, by names within it. kept: stacked linears that stay float."""
    config, prefix = checkpoint.config, f"model.layers.{layer}."
    given = {n.removeprefix(prefix): i for n, i in checkpoint.source.tensors().items() if n.startswith(prefix)}
    types = _packed_types(container, bits)
    kinds: dict[str, Kind] = {}
    for stack in STACKS:
        k, members = inputs_of(config, stack), modules(config)[stack]
        biased = any(f"{module}.bias" in given for module, _ in members)  # the others then get zeros
        for module, n in members:
            if stack in kept:
                kinds[f"{module}.weight"] = Kind(torch.float16, (n, k))
            else:
                shapes = container.shapes(prefix + module, n, k)
                kinds |= {f"{module}.{suffix}": Kind(dtype, shapes[suffix]) for suffix, dtype in types.items()}
            if biased:
                kinds[f"{module}.bias"] = Kind(torch.float16, (n,))
    names = NORMS + QK_NORMS if config.qk_norm else NORMS
    return kinds | {name: Kind(torch.float16, given[name].shape) for name in names}


def _packed_types(container: Container, bits: int) -> dict[str, torch.dtype]:
    """The types of a linear's tensors by suffix, from packing a small one."""
    size = container.group_size if container.group_size > 0 else 32
    zero = torch.full((32, 1), 1 << (bits - 1), dtype=torch.uint8)
    weight = IntWeight(zero.expand(32, size).contiguous(), torch.ones(32, 1).half(), zero, bits)
    return {suffix: tensor.dtype for suffix, tensor in container.pack(weight).items()}


def _on_cpu(w: IntWeight) -> IntWeight:
    index = None if w.g_idx is None else w.g_idx.cpu()
    return replace(w, q=w.q.cpu(), s=w.s.cpu(), z=w.z.cpu(), g_idx=index)
