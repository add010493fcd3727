"""Words of vLLM's `LLM(...)` that have no counterpart here, so that what was written for it runs, or says why not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from halfbyte.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

# How vLLM goes about it, not what it answers
HARMLESS = frozenset(
    {
        "block_size", "disable_custom_all_reduce", "disable_log_requests", "disable_log_stats",
        "enable_chunked_prefill", "enforce_eager", "max_context_len_to_capture", "max_logprobs",
        "max_parallel_loading_workers", "max_seq_len_to_capture", "swap_space", "use_v2_block_manager",
    }
)  # fmt: skip
# What alone they may say here, and what else to do
ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "code_revision": ((None,), "no code of a repository is run"),
    "cpu_offload_gb": ((0, None), "weights are not kept elsewhere; device='cpu' computes on the CPU"),
    "distributed_executor_backend": ((None, "mp"), "leave it out"),
    "download_dir": ((None,), "set HF_HOME"),
    "load_format": (("auto", "safetensors"), "what a repository holds is read; leave it out"),
    "pipeline_parallel_size": ((1, None), "whole blocks are not spread over processes; use tensor_parallel_size"),
    "revision": ((None,), "write it behind the model's id: org/name@revision"),
    "skip_tokenizer_init": ((False,), "give the tokenizer of another source as tokenizer="),
    "tokenizer_mode": (("auto", "hf"), "leave it out: the fast tokenizer is used"),
    "tokenizer_revision": ((None,), "write it behind the tokenizer's id: org/name@revision"),
}


def check_words(words: Mapping[str, Any]) -> None:
    """Raise ConfigError for a word of vLLM's that cannot be honoured, and TypeError for one that it has not."""
    for name, value in words.items():
        if name in ONLY:
            allowed, instead = ONLY[name]
            if value not in allowed:
                raise ConfigError(f"{name}={value!r} cannot be honoured: {instead}")
        elif name not in HARMLESS:
            raise TypeError(f"LLM() got an unexpected keyword argument {name!r}")


def check_utilization(share: float | None, ranks: int) -> None:
    """Raise ConfigError if this is no share of a GPU's memory, or of that of several."""
    if share is not None and ranks > 1:
        raise ConfigError(
            "gpu_memory_utilization cannot be honoured on several GPUs: give kv_cache, the memory of each"
        )
    if share is not None and (isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1):
        raise ConfigError(f"gpu_memory_utilization is {share!r}; it must be a share of the GPU's memory, such as 0.9")


def cache_of_utilization(share: float, device: torch.device) -> int | None:
    """Bytes for keys and values, if all that a GPU holds may take this share of its memory; None on a CPU."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    left = int(share * total) - (total - free)
    if left <= 0:
        raise ConfigError(
            f"gpu_memory_utilization={share} allows {share * total / 2**30:.1f} GiB, and the weights and what else is "
            f"on the GPU take {(total - free) / 2**30:.1f} GiB of it; give more"
        )
    return left
