"""What a run will need, told before it starts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from halfbyte.checkpoint.size import awq_size, linear_weight_count
from halfbyte.errors import QuantizeError
from halfbyte.quantize.awq_search import SEARCH_ROWS
from halfbyte.quantize.block_quantizer import ROUNDED_AT_ONCE
from halfbyte.quantize.effort import RECIPES
from halfbyte.quantize.machine import free_memory
from halfbyte.quantize.stream import MICRO_BATCH_TOKENS

if TYPE_CHECKING:
    from halfbyte.checkpoint.config import ModelConfig
    from halfbyte.quantize.options import QuantizeOptions

BESIDE_PRODUCTS = 1.6  # all the work over that in large products: rounding, attention, norms; as seen on two cores
CANDIDATES = 24  # scales tried a linear, see awq_search
PROGRAM = 700_000_000  # Python, torch and their libraries
SHARE_OF_FREE = 0.75  # of free memory that is taken without being told how much to take


@dataclass(frozen=True, slots=True)
class Plan:
    """What is needed, in bytes, and about how long it takes, in seconds, by a short measurement of this machine."""

    group_size: int
    layers: int
    memory: int  # the most at a time
    spilled: int  # activations in a file, as they do not fit
    disk: int  # all files at once: the result, finished blocks, activations
    seconds: float
    notes: tuple[str, ...]
    activation_budget: int  # what activations may take of the memory


def make_plan(
    config: ModelConfig, group_size: int, samples: int, options: QuantizeOptions, device: torch.device, notes: list[str]
) -> Plan:
    """Estimate a run over that many samples. Raises QuantizeError for what cannot fit, naming what would."""
    tokens = samples * options.seq_len
    heads, mlp, width = config.num_heads * config.head_dim, config.intermediate_size, config.hidden_size
    block = linear_weight_count(config) // max(config.num_layers, 1)
    least = _least_memory(config, block, device)
    limit = options.memory or int(free_memory(device) * SHARE_OF_FREE)
    if least > limit:
        raise QuantizeError(
            f"quantizing this model takes {least / 2**30:.1f} GiB of {device.type} memory (one block, its statistics "
            f"and {MICRO_BATCH_TOKENS} tokens of activations), and "
            + (f"--memory allows {limit / 2**30:.1f}; raise it to {least / 2**30 + 0.1:.1f}GiB" if options.memory else
               f"{limit / 2**30:.1f} may be taken of what is free; --memory {least / 2**30 + 0.1:.1f}GiB takes more, "
               "if other programs can do with less")
        )  # fmt: skip
    streams = 4 * tokens * 2 * (width + max(heads, mlp))  # two models' hidden states, and what lies between two linears
    budget = limit - least
    fits = min(streams, budget)
    state = 4 * tokens * 2 * width
    out = awq_size(config, group_size if group_size > 0 else width)
    return Plan(
        group_size, config.num_layers, least + fits, streams - fits, 2 * out + state + streams - fits,
        _flops(config, block, tokens, options) / flops_per_second(device), tuple(notes), budget,
    )  # fmt: skip


def _least_memory(config: ModelConfig, block: int, device: torch.device) -> int:
    heads, mlp = config.num_heads * config.head_dim, config.intermediate_size
    widest = max(heads, mlp, config.hidden_size)
    largest = max((config.num_heads + 2 * config.num_kv_heads) * config.head_dim, 2 * mlp) * config.hidden_size
    embedding = 4 * config.vocab_size * config.hidden_size  # in 16 bits, read and copied
    weights = 12 * block  # as read, twice (the next block is read ahead), and two float32 copies
    statistics = 24 * widest**2  # H, and its factors in double precision
    rounding = 4 * largest + 32 * min(ROUNDED_AT_ONCE, largest)
    passing = 4 * MICRO_BATCH_TOKENS * (2 * config.hidden_size + 4 * mlp)
    program = PROGRAM if device.type == "cpu" else 0
    return program + embedding + weights + max(statistics + rounding, passing + 12 * widest**2)


def _flops(config: ModelConfig, block: int, tokens: int, options: QuantizeOptions) -> float:
    recipe = RECIPES[options.effort]
    heads, mlp, width = config.num_heads * config.head_dim, config.intermediate_size, config.hidden_size
    statistics = 2 * width**2 + heads**2 + mlp**2
    streams = 2 if recipe.follow else 1
    flops = 2.0 * streams * tokens * block + (3.3 if recipe.follow else 1.1) * tokens * statistics
    flops += CANDIDATES * 2 * SEARCH_ROWS * statistics * recipe.scale + 8 * mlp**3 / 3
    head = config.vocab_size * config.hidden_size
    tuning = recipe.tune * tokens * (2 * 4.3 * block * config.num_layers + 8 * head)
    return (config.num_layers * flops + tuning) * BESIDE_PRODUCTS


def flops_per_second(device: torch.device) -> float:
    """Speed of a float32 product here, measured in a fraction of a second."""
    a, b = torch.ones(2048, 768, device=device), torch.ones(768, 1024, device=device)
    (a @ b)[0, 0].item()
    start = time.perf_counter()
    for _ in range(3):
        c = a @ b
    c[0, 0].item()
    return 3 * 2 * 2048 * 768 * 1024 / (time.perf_counter() - start)
