"""What a run will need, told before it starts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from halfbyte.checkpoint.size import awq_size, linear_weight_count
from halfbyte.quantize.awq_search import SEARCH_ROWS

if TYPE_CHECKING:
    from halfbyte.checkpoint.config import ModelConfig

BESIDE_PRODUCTS = 2.2  # all the work over that in large products: rounding, attention, norms; as seen on two cores
CANDIDATES = 24  # scales tried a linear, see awq_search


@dataclass(frozen=True, slots=True)
class Plan:
    """group_size as chosen; memory and disk in bytes; seconds from a short measurement of this machine."""

    group_size: int
    layers: int
    memory: int
    disk: int
    seconds: float
    notes: tuple[str, ...]


def make_plan(config: ModelConfig, group_size: int, samples: int, seq_len: int, notes: list[str]) -> Plan:
    """Estimate a run."""
    tokens = samples * seq_len
    widths = (config.hidden_size, config.num_heads * config.head_dim, config.intermediate_size)
    statistics = sum(width * width for width in (widths[0], widths[0], widths[1], widths[2]))
    block = linear_weight_count(config) // config.num_layers
    embedding = config.vocab_size * config.hidden_size
    memory = 4 * (tokens * widths[0] + 6 * block + 3 * statistics + 8 * 4096 * widths[2]) + 6 * embedding
    flops = config.num_layers * (2 * tokens * block + 1.3 * tokens * statistics)
    flops += CANDIDATES * config.num_layers * 2 * SEARCH_ROWS * statistics
    flops *= BESIDE_PRODUCTS
    disk = awq_size(config, group_size if group_size > 0 else config.hidden_size)
    return Plan(group_size, config.num_layers, memory, disk, flops / flops_per_second(), tuple(notes))


def flops_per_second() -> float:
    """Speed of a float32 product here, measured in a fraction of a second."""
    a, b = torch.ones(2048, 768), torch.ones(768, 1024)
    a @ b
    start = time.perf_counter()
    for _ in range(3):
        a @ b
    return 3 * 2 * 2048 * 768 * 1024 / (time.perf_counter() - start)
