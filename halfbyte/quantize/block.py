"""The linears of one transformer block: which belong together, and how a scale moves into what comes before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from halfbyte.kernels.interface import AfterAttention, LinearWeight
from halfbyte.models.loader import BlockReader
from halfbyte.models.network import Block

if TYPE_CHECKING:
    from halfbyte.checkpoint.checkpoint import Checkpoint
    from halfbyte.checkpoint.config import ModelConfig

PRODUCER = {"o": "qkv", "down": "gate_up"}  # whose rows a linear's scale goes into; the others' goes into a norm


def modules(config: ModelConfig) -> dict[str, list[tuple[str, int]]]:
    """The modules stacked in each of a block's linears and their output rows, in order."""
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    mlp = config.intermediate_size
    return {
        "qkv": [("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)],
        "o": [("self_attn.o_proj", config.hidden_size)],
        "gate_up": [("mlp.gate_proj", mlp), ("mlp.up_proj", mlp)],
        "down": [("mlp.down_proj", config.hidden_size)],
    }


def fold_scale(block: Block, name: str, scale: torch.Tensor, config: ModelConfig) -> None:
    """Multiply a linear's input channels by `scale` [K], and divide what produces that input by it.

    The input of q, k, v and of gate, up comes from a norm; that of o from v's rows; that of down from up's rows.
    """
    float_weight(block.linears()[name]).mul_(scale)
    if name == "qkv":
        block.input_norm = block.input_norm / scale
    elif name == "gate_up":
        block.after.norm = block.after.norm / scale
    elif name == "o":
        kv = config.num_kv_heads * config.head_dim
        by_query_head = scale.view(config.num_kv_heads, -1, config.head_dim)
        _divide_rows(block.qkv, slice(-kv, None), by_query_head[:, 0].flatten())
    else:
        _divide_rows(block.after.gate_up, slice(config.intermediate_size, None), scale)


def shared_value_channels(config: ModelConfig) -> torch.Tensor:
    """For each input channel of o [H * d], the channel of v [Hkv * d] that it is a mixture of.

    The originals skip this pair under grouped-query attention; heads of one group only need to share their scale.
    """
    repeat = config.num_heads // config.num_kv_heads
    channels = torch.arange(config.num_kv_heads * config.head_dim).view(config.num_kv_heads, 1, config.head_dim)
    return channels.expand(-1, repeat, -1).flatten()


def float_weight(w: LinearWeight) -> torch.Tensor:
    """The float weight of a linear that is not quantized yet."""
    assert isinstance(w.weight, torch.Tensor)
    return w.weight


def groups_of(w: LinearWeight, group_size: int) -> int:
    """The group size for this linear."""
    return int(float_weight(w).shape[1]) if group_size == -1 else group_size


def source_block(checkpoint: Checkpoint, layer: int) -> Block:
    """A block as the source has it: linears in the type they are stored in, all else in float32, and nothing mapped."""
    block = BlockReader(checkpoint, as_stored=True).block(layer)
    for w in block.linears().values():
        w.bias = None if w.bias is None else w.bias.float()
    block.input_norm, block.after.norm = block.input_norm.float().clone(), block.after.norm.float().clone()
    block.q_norm, block.k_norm = (None if n is None else n.float().clone() for n in (block.q_norm, block.k_norm))
    checkpoint.source.release()
    return block


def float_block(block: Block) -> Block:
    """A float32 copy of a block, whose weights may be changed in place."""

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(torch.float32, copy=True)

    def copied(w: LinearWeight) -> LinearWeight:
        return LinearWeight(moved(float_weight(w)), None if w.bias is None else moved(w.bias))

    after = block.after
    return Block(
        input_norm=moved(block.input_norm),
        qkv=copied(block.qkv),
        q_norm=None if block.q_norm is None else moved(block.q_norm),
        k_norm=None if block.k_norm is None else moved(block.k_norm),
        after=AfterAttention(copied(after.o), moved(after.norm), copied(after.gate_up), copied(after.down)),
    )


def norms(block: Block) -> dict[str, torch.Tensor]:
    """A block's norm weights by their name within it."""
    found = {
        "input_layernorm.weight": block.input_norm,
        "post_attention_layernorm.weight": block.after.norm,
        "self_attn.q_norm.weight": block.q_norm,
        "self_attn.k_norm.weight": block.k_norm,
    }
    return {name: norm for name, norm in found.items() if norm is not None}


def _divide_rows(w: LinearWeight, rows: slice, scale: torch.Tensor) -> None:
    float_weight(w)[rows].div_(scale[:, None])
    if w.bias is not None:
        w.bias[rows] /= scale
