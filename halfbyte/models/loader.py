"""From a checkpoint to a network that runs: stacks what shares an input, and picks the kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from halfbyte.checkpoint.int4 import Int4Weight, concat_rows
from halfbyte.kernels.interface import AfterAttention, Kernels, LinearWeight
from halfbyte.kernels.reference import ReferenceKernels
from halfbyte.models.network import Block, Network

if TYPE_CHECKING:
    from collections.abc import Iterator

    from halfbyte.checkpoint.checkpoint import Checkpoint

Compute = Literal["auto", "float32"]


def load_network(checkpoint: Checkpoint, compute: Compute = "auto", *, adaptable: bool = False) -> Network:
    """Build the network. compute="float32" makes 4-bit weights float and rounds no activation (exact, slower).

    adaptable: passes can be given adapters.
    """
    kernels = pick_kernels(checkpoint, compute, adaptable=adaptable)
    embedding = checkpoint.tensor("model.embed_tokens.weight")
    tied = checkpoint.config.tie_word_embeddings
    return Network(
        checkpoint.config,
        embedding,
        read_blocks(checkpoint),
        checkpoint.tensor("model.norm.weight"),
        embedding if tied else checkpoint.tensor("lm_head.weight"),
        kernels,
    )


def pick_kernels(checkpoint: Checkpoint, compute: Compute, *, adaptable: bool = False) -> Kernels:
    """Int4 kernels for a quantized checkpoint, the float32 reference for any other, or when asked for."""
    if compute == "float32" or checkpoint.container is None:
        return ReferenceKernels()
    from halfbyte.kernels.cpu.onnx_kernels import OnnxKernels  # noqa: PLC0415  onnxruntime takes 0.2 s to import

    return OnnxKernels(adaptable=adaptable)


def read_blocks(checkpoint: Checkpoint) -> Iterator[Block]:
    """The blocks, one after another, each read from disk when it is asked for."""
    for layer in range(checkpoint.config.num_layers):
        yield read_block(checkpoint, layer)


def read_block(checkpoint: Checkpoint, layer: int) -> Block:
    """Read one block's weights."""
    prefix = f"model.layers.{layer}"
    attn, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
    has_norms = checkpoint.config.qk_norm
    return Block(
        input_norm=checkpoint.tensor(f"{prefix}.input_layernorm.weight"),
        qkv=stacked(checkpoint, [f"{attn}.{n}_proj" for n in "qkv"]),
        q_norm=checkpoint.tensor(f"{attn}.q_norm.weight") if has_norms else None,
        k_norm=checkpoint.tensor(f"{attn}.k_norm.weight") if has_norms else None,
        after=AfterAttention(
            o=stacked(checkpoint, [f"{attn}.o_proj"]),
            norm=checkpoint.tensor(f"{prefix}.post_attention_layernorm.weight"),
            gate_up=stacked(checkpoint, [f"{mlp}.gate_proj", f"{mlp}.up_proj"]),
            down=stacked(checkpoint, [f"{mlp}.down_proj"]),
        ),
    )


def stacked(checkpoint: Checkpoint, prefixes: list[str]) -> LinearWeight:
    """Linears that share their input as one. If some are 4-bit and some not, all are made float."""
    weights = [checkpoint.linear(prefix) for prefix in prefixes]
    biases = [checkpoint.bias(prefix) for prefix in prefixes]
    int4 = [w for w in weights if isinstance(w, Int4Weight)]
    weight: torch.Tensor | Int4Weight
    if len(int4) == len(weights):
        weight = concat_rows(int4) if len(int4) > 1 else int4[0]
    else:
        weight = torch.cat([w.dequantize() if isinstance(w, Int4Weight) else w.float() for w in weights])
    if all(b is None for b in biases):
        return LinearWeight(weight)
    rows = [w.q.shape[0] if isinstance(w, Int4Weight) else w.shape[0] for w in weights]
    filled = [torch.zeros(n) if b is None else b.float() for b, n in zip(biases, rows, strict=True)]
    return LinearWeight(weight, torch.cat(filled))
