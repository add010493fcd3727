"""How much memory keys and values get."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from halfbyte.errors import ConfigError

if TYPE_CHECKING:
    from halfbyte.checkpoint.config import ModelConfig
    from halfbyte.engine.options import EngineOptions
    from halfbyte.models.network import Network

DEFAULT_SHARES = {"cpu": 0.25, "cuda": 0.85}  # of what is free: a GPU is seldom there for anything else
UNITS = {"": 1, "B": 1} | {f"{p}{b}": f**i for b, f in (("B", 1000), ("iB", 1024)) for i, p in enumerate("KMGT", 1)}
FORMS = 'a size such as "2GiB", a number of bytes, or a share of the memory such as 0.3'


def count_blocks(
    budget: str | float | None, config: ModelConfig, block_size: int, page: int, context: int, most_seqs: int,
    device: torch.device, sharing: int = 1,
) -> int:  # fmt: skip
    """Blocks that the budget pays for (see EngineOptions.kv_cache); page: bytes of a block of one layer's keys.

    Without a budget, a quarter of the memory that is free (GPU: 85 %), or what `most_seqs` full contexts take if that
    is less. sharing: processes that the budget is for. Raises ConfigError if not even one sequence of the whole context
    would fit.
    """
    block = 2 * config.num_layers * page
    whole = -(-context // block_size)
    count = read_budget(DEFAULT_SHARES[device.type] if budget is None else budget, device) // sharing // block
    if budget is None:
        count = min(count, whole * most_seqs)
    if device.type == "cpu" and count * block > _all_memory():  # the system would promise it, and end us later
        raise ConfigError(f"kv_cache is {budget!r}, and this machine has {_all_memory() / 2**30:.1f} GiB; give less")
    if count < whole:
        raise ConfigError(
            f"kv_cache is too small: it holds {count * block_size} tokens and the context is {context}, "
            f"{whole * block / 2**20:.1f} MiB; give more, or a smaller max_model_len"
        )
    return count


def blocks_for(network: Network, options: EngineOptions, context: int) -> int:
    """Blocks that there is room for, of the heads that a network has here. See `count_blocks`."""
    config, size, kind = network.config, options.block_size, options.kv_cache_dtype
    page = network.kernels.kv_cache(1, config.num_kv_heads, size, config.head_dim, kind).untyped_storage().nbytes()
    seqs, _ = options.limits(network.device.type)
    together = 1 if network.share is None or network.device.type != "cpu" else network.share.ranks
    return count_blocks(options.kv_cache, config, size, page, context, seqs, network.device, together)


def read_budget(budget: str | float, device: torch.device) -> int:
    """Bytes."""
    if isinstance(budget, str):
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([KMGT]?i?B?)\s*", budget)
        if match and match[2] in UNITS and (match[2] or float(match[1]) >= 1):
            return int(float(match[1]) * UNITS[match[2]])
        if match and not match[2]:
            return read_budget(float(match[1]), device)
    elif not isinstance(budget, bool) and isinstance(budget, int | float) and budget > 0:
        return int(budget * free_memory(device)) if budget < 1 else int(budget)
    raise ConfigError(f"kv_cache is {budget!r}; it must be {FORMS}")


def free_memory(device: torch.device) -> int:
    """Bytes that may still be taken on a device, or here within what a container allows."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit, used = (next(_lines(f"/sys/fs/cgroup/memory.{name}"), "") for name in ("max", "current"))
    return min(free, int(limit) - int(used)) if limit.isdigit() and used.isdigit() else free


def _all_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _lines(path: str):  # type: ignore[no-untyped-def]
    try:
        yield from Path(path).read_text().splitlines()
    except OSError:
        return
