"""What a run will need, told before it starts."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from halfbyte.checkpoint.size import linear_weight_count
from halfbyte.errors import QuantizeError
from halfbyte.quantize.awq_search import SEARCH_ROWS
from halfbyte.quantize.block import modules
from halfbyte.quantize.block_quantizer import ON_A_GPU, ROUNDED_AT_ONCE
from halfbyte.quantize.effort import RECIPES
from halfbyte.quantize.follow import ROWS as FOLLOWED_ROWS
from halfbyte.quantize.held_out import most_logits
from halfbyte.quantize.machine import free_memory
from halfbyte.quantize.options import Effort
from halfbyte.quantize.product import product
from halfbyte.quantize.stream import tokens_at_once
from halfbyte.quantize.tune import BATCH_TOKENS

if TYPE_CHECKING:
    from halfbyte.checkpoint.checkpoint import Checkpoint
    from halfbyte.checkpoint.config import ModelConfig
    from halfbyte.quantize.effort import Recipe
    from halfbyte.quantize.options import QuantizeOptions

BESIDE_PRODUCTS = 1.6  # all the work over that in large products: rounding, attention, norms; as seen on two cores
BESIDE_ON_A_GPU = 1.3  # the same there, of what grows with the tokens
SECONDS_A_WEIGHT = 4.7e-9  # there, of what does not: scales, clipping, factors, rounding, files; as seen on one H200
CANDIDATES = 24  # scales tried a linear, see awq_search
PROGRAM = 700_000_000  # Python, torch and their libraries
MARGIN = 1.05  # what the allocator and the libraries' own buffers take beside
LESS: tuple[Effort, ...] = ("default", "fast", "gptq", "awq", "rtn")  # the best first
WAITING = {"qkv": "o", "gate_up": "down"}  # the linear whose statistics are held while another is rounded
SHARE_OF_FREE = 0.75  # of free memory that is taken without being told how much to take


@dataclass(frozen=True, slots=True)
class Plan:
    """What is needed, in bytes, and about how long it takes, in seconds, by a short measurement of this machine."""

    group_size: int
    layers: int
    memory: int  # the most at a time
    spilled: int  # activations in a file, as they do not fit
    disk: int  # all files at once: the result, hidden states to go on from, activations
    seconds: float
    notes: tuple[str, ...]
    activation_budget: int  # what activations may take of the memory


def make_plan(
    checkpoint: Checkpoint,
    group_size: int,
    samples: int,
    options: QuantizeOptions,
    device: torch.device,
    notes: list[str],
    out_bytes: int,
) -> Plan:
    """Estimate a run over that many samples. Raises QuantizeError for what cannot fit, naming what would.

    out_bytes: what the weight files take of the disk.
    """
    config = checkpoint.config
    tokens = samples * options.seq_len
    heads, mlp, width = config.num_heads * config.head_dim, config.intermediate_size, config.hidden_size
    least = _least_memory(checkpoint, group_size, tokens, options, device)
    limit = options.memory or int(free_memory(device) * SHARE_OF_FREE)
    if least > limit:
        raise QuantizeError(_refusal(least, limit, checkpoint, group_size, tokens, options, device))
    streams = 4 * tokens * 2 * (width + max(heads, mlp))  # two models' hidden states, and what lies between two linears
    budget = limit - least
    fits = min(streams, budget)
    state = 4 * tokens * 2 * width
    tuned = 26 * _scales(config, group_size) if RECIPES[options.effort].tune else 0  # a pass's, the next one's, learnt
    return Plan(
        group_size, config.num_layers, least + fits, streams - fits, out_bytes + tuned + 2 * state + streams - fits,
        _seconds(config, tokens, options, device), tuple(notes), budget,
    )  # fmt: skip


def _refusal(
    least: int,
    limit: int,
    checkpoint: Checkpoint,
    group_size: int,
    tokens: int,
    options: QuantizeOptions,
    device: torch.device,
) -> str:
    """What is needed, what there is, and which options would do."""
    least_of = {e: _least_memory(checkpoint, group_size, tokens, replace(options, effort=e), device) for e in LESS}
    needed = least / 2**30
    more, at_once = f"{needed + 0.1:.1f}GiB", tokens_at_once(device.type)
    ways = (
        f"raise it to {more}" if options.memory else f"--memory {more} takes more, if other programs can do with less"
    )
    fitting = next((e for e, size in least_of.items() if size <= limit), None)
    if fitting is not None:
        ways += f"; or --effort {fitting}, which takes {least_of[fitting] / 2**30:.1f}"
    room = f"{limit / 2**30:.1f}"
    allowed = f"--memory allows {room}" if options.memory else f"{room} may be taken of what is free"
    return (
        f"quantizing this model with --effort {options.effort} takes {needed:.1f} GiB of {device.type} memory (one "
        f"block, its statistics and {at_once} tokens of activations, all else in files), and {allowed}; " + ways
    )


def _least_memory(
    checkpoint: Checkpoint, group_size: int, tokens: int, options: QuantizeOptions, device: torch.device
) -> int:
    """Of a run whose activations all lie in a file: what its hungriest part takes."""
    config = checkpoint.config
    parts = [_quantizing(checkpoint, tokens, RECIPES[options.effort], device), _measuring(config, tokens, device)]
    if RECIPES[options.effort].tune:
        parts.append(_tuning(config, group_size, tokens, device))
    return int(max(parts) * MARGIN) + (PROGRAM if device.type == "cpu" else 0)


def _quantizing(checkpoint: Checkpoint, tokens: int, recipe: Recipe, device: torch.device) -> int:
    """One block, its statistics and a micro-batch of activations, at the linear where that is most."""
    config = checkpoint.config
    mlp, width, block = config.intermediate_size, config.hidden_size, _block_weights(config)
    stored = max(checkpoint.source.tensors()[f"{name}.weight"].dtype.itemsize for name in checkpoint.linears)
    weights = (2 * stored + 4 + 1) * block  # as stored, twice (the next is read ahead); in float32; what is finished
    inputs = _inputs(config)
    linears = {name: (sum(rows for _, rows in modules(config)[name]), k) for name, k in inputs.items()}
    largest = max(n * k for n, k in linears.values())
    at_once = ROUNDED_AT_ONCE if device.type == "cpu" else ON_A_GPU
    hungriest = 0
    for name, (n, k) in linears.items():
        square, rows = 4 * k**2, min(n, FOLLOWED_ROWS)
        waiting = 4 * inputs[WAITING[name]] ** 2 if name in WAITING else 0
        following = 4 * square + 4 * n * k + 12 * rows * k if recipe.follow else 0
        rounding = (3 if recipe.compensate else 1) * square + 4 * n * k + 32 * min(at_once, n * k)
        hungriest = max(hungriest, waiting + following, waiting + rounding)
    passing = 4 * (width**2 + max(mlp, config.num_heads * config.head_dim) ** 2) + 4 * largest
    passing += 4 * min(tokens_at_once(device.type), tokens) * (2 * width + 4 * mlp)
    return weights + max(hungriest, passing)


def _measuring(config: ModelConfig, tokens: int, device: torch.device) -> int:
    """The head, as stored and in float32, and a few rows of logits."""
    return 6 * config.vocab_size * config.hidden_size + 24 * min(most_logits(device.type), tokens * config.vocab_size)


def _tuning(config: ModelConfig, group_size: int, tokens: int, device: torch.device) -> int:
    """All scales four times over, a hidden state a block, and one block forward and backward."""
    mlp, width, block = config.intermediate_size, config.hidden_size, _block_weights(config)
    scales = _scales(config, group_size)
    hidden = 4 * min(BATCH_TOKENS, tokens) * (config.num_layers * width + 8 * width + 8 * mlp)
    return 20 * scales + hidden + 17 * block + _measuring(config, tokens, device)


def _scales(config: ModelConfig, group_size: int) -> int:
    return linear_weight_count(config) // (group_size if group_size > 0 else config.hidden_size)


def _block_weights(config: ModelConfig) -> int:
    return linear_weight_count(config) // max(config.num_layers, 1)


def _inputs(config: ModelConfig) -> dict[str, int]:
    """Inputs of each of a block's stacked linears."""
    return {
        "qkv": config.hidden_size, "o": config.num_heads * config.head_dim,
        "gate_up": config.hidden_size, "down": config.intermediate_size,
    }  # fmt: skip


def _seconds(config: ModelConfig, tokens: int, options: QuantizeOptions, device: torch.device) -> float:
    products = _flops(config, tokens, options) / flops_per_second(device)
    if device.type == "cpu":
        return products * BESIDE_PRODUCTS
    return products * BESIDE_ON_A_GPU + linear_weight_count(config) * SECONDS_A_WEIGHT


def _flops(config: ModelConfig, tokens: int, options: QuantizeOptions) -> float:
    """Of the large products."""
    recipe, block = RECIPES[options.effort], _block_weights(config)
    linears = [(sum(rows for _, rows in modules(config)[name]), k) for name, k in _inputs(config).items()]
    squares = sum(k**2 for _, k in linears)
    streams = 2 if recipe.follow else 1
    flops = 2.0 * streams * tokens * block + (4.6 if recipe.follow else 1.3) * tokens * squares
    flops += CANDIDATES * 2 * SEARCH_ROWS * squares * recipe.scale
    if recipe.follow:
        flops += sum(4 * n * k**2 for n, k in linears)
    head = config.vocab_size * config.hidden_size
    tuning = recipe.tune * tokens * (2 * 4.3 * block * config.num_layers + 8 * head)
    return config.num_layers * flops + tuning


def flops_per_second(device: torch.device) -> float:
    """Speed of the products that a quantizer makes, measured in a fraction of a second."""
    size = (2048, 768, 1024) if device.type == "cpu" else (8192, 8192, 8192)
    a, b = torch.ones(size[0], size[1], device=device), torch.ones(size[2], size[1], device=device)
    product(a, b)[0, 0].item()
    start = time.perf_counter()
    for _ in range(3):
        c = product(a, b)
    c[0, 0].item()
    return 3 * 2 * size[0] * size[1] * size[2] / (time.perf_counter() - start)
