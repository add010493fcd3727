"""How an engine is set up."""

from __future__ import annotations

from dataclasses import dataclass

from halfbyte.errors import ConfigError
from halfbyte.kernels.cache_kind import CACHE_KINDS, CacheKind


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Checked when it is made: ConfigError names the option, what it was and what it may be."""

    kv_cache: str | float | None = None  # memory for keys and values: "2GiB", bytes, or a share (< 1) of the device's
    kv_cache_dtype: CacheKind = "auto"  # what they are kept as; "fp8" and "int8": half the memory, on a GPU
    block_size: int = 16  # tokens
    max_num_seqs: int | None = None  # sequences of a pass; None: 64, on a GPU 256
    # tokens of a pass: more reads prompts faster, fewer answers more evenly; None: 512, on a GPU 4096
    max_num_batched_tokens: int | None = None
    enable_prefix_caching: bool = True
    speculative_tokens: int = 0  # the most that are guessed at once (see halfbyte.engine.speculate); 0: none
    enable_lora: bool = False  # adapters can be loaded
    deterministic: bool = False  # a request's tokens do not depend on its company; on a CPU they never do
    overlap: bool | None = None  # launch a pass before the tokens of the last are known; None: except on a CPU

    def __post_init__(self) -> None:
        for name, least in (("block_size", 1), ("max_num_seqs", 1), ("max_num_batched_tokens", 1),
                            ("speculative_tokens", 0)):  # fmt: skip
            value = getattr(self, name)
            if value is None and name in ("max_num_seqs", "max_num_batched_tokens"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} is {value!r}; it must be a whole number, {least} or more")
        if self.kv_cache_dtype not in CACHE_KINDS:
            raise ConfigError(f"kv_cache_dtype is {self.kv_cache_dtype!r}; it must be one of {', '.join(CACHE_KINDS)}")

    def limits(self, device: str) -> tuple[int, int]:
        """Sequences and tokens of a pass on a type of device: "cpu" or "cuda"."""
        seqs, tokens = (64, 512) if device == "cpu" else (256, 4096)
        return self.max_num_seqs or seqs, self.max_num_batched_tokens or tokens
