"""One transformer block: choose scales, fold them into the operation before, clip, round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from halfbyte.checkpoint.int4 import Int4Weight, rows_of
from halfbyte.quantize.awq_search import ScaleChoice, search_scale
from halfbyte.quantize.clip_search import search_ranges
from halfbyte.quantize.gptq import round_columns
from halfbyte.quantize.report import LayerReport
from halfbyte.quantize.rounding import ranges, rounding_error
from halfbyte.quantize.statistics import row_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from halfbyte.checkpoint.config import ModelConfig
    from halfbyte.kernels.interface import LinearWeight
    from halfbyte.models.network import Block
    from halfbyte.quantize.statistics import InputStatistics


@dataclass(slots=True)
class QuantizedLinear:
    """A linear by its module name within the block, its 4-bit weight and its bias."""

    name: str
    weight: Int4Weight
    bias: torch.Tensor | None
    report: LayerReport


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


def quantize_block(
    block: Block, stats: dict[str, InputStatistics], config: ModelConfig, group_size: int
) -> Iterator[QuantizedLinear]:
    """Quantize a block whose float32 weights are left scaled, as its 4-bit weights and folded norms expect them.

    stats: of the inputs of each of `Block.linears()`. group_size -1 is one group a row.
    """
    linears = block.linears()
    slots = {"o": shared_value_channels(config).to(block.input_norm.device)}
    choices = {
        name: search_scale(float_weight(w), stats[name], groups_of(w, group_size), slots.get(name))
        for name, w in linears.items()
    }
    fold_scales(block, choices, config)
    for name, parts in modules(config).items():
        yield from _round_stack(linears[name], parts, stats[name], choices[name], group_size)


def fold_scales(block: Block, choices: dict[str, ScaleChoice], config: ModelConfig) -> None:
    """Multiply each linear's input channels by its scale, and divide what produces that input by it.

    The input of q, k, v and of gate, up comes from a norm; that of o from v's rows; that of down from up's rows.
    """
    for name, w in block.linears().items():
        float_weight(w).mul_(choices[name].scale)
    block.input_norm = block.input_norm / choices["qkv"].scale
    block.after.norm = block.after.norm / choices["gate_up"].scale
    kv = config.num_kv_heads * config.head_dim
    by_query_head = choices["o"].scale.view(config.num_kv_heads, -1, config.head_dim)
    _divide_rows(block.qkv, slice(-kv, None), by_query_head[:, 0].flatten())
    _divide_rows(block.after.gate_up, slice(config.intermediate_size, None), choices["down"].scale)


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


def _divide_rows(w: LinearWeight, rows: slice, scale: torch.Tensor) -> None:
    float_weight(w)[rows].div_(scale[:, None])
    if w.bias is not None:
        w.bias[rows] /= scale


def _round_stack(
    w: LinearWeight, parts: list[tuple[str, int]], stats: InputStatistics, choice: ScaleChoice, group_size: int
) -> Iterator[QuantizedLinear]:
    """Clip the linears that share an input, and round them together."""
    weight, size = float_weight(w), groups_of(w, group_size)
    H = stats.scaled(choice.scale)
    low, high = search_ranges(weight, H, size)
    power = row_errors(weight, H)
    rounded = round_columns(weight, low, high, H)
    error = row_errors(rounded.dequantize() - weight, H)
    unscaled = weight / choice.scale
    plain = row_errors(rounding_error(unscaled, *ranges(unscaled, size)), stats.H)
    begin = 0
    for name, rows in parts:
        part = slice(begin, begin + rows)
        begin += rows
        total = power[part].sum().clamp(min=1e-30)
        report = LayerReport(
            name=name,
            inputs=weight.shape[1],
            outputs=rows,
            formula=choice.formula,
            ratio=round(choice.ratio, 4),
            error_before=(plain[part].sum() / total).item(),
            error_after=(error[part].sum() / total).item(),
        )
        bias = None if w.bias is None else w.bias[part]
        yield QuantizedLinear(name, rows_of(rounded, part), bias, report)
