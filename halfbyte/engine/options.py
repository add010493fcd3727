"""How an engine is set up."""

from __future__ import annotations

from dataclasses import dataclass

from halfbyte.errors import ConfigError


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Checked when it is made: ConfigError names the option, what it was and what it may be."""

    kv_cache: str | float | None = None  # memory for keys and values: "2GiB", bytes, or a share (< 1) of the device's
    block_size: int = 16  # tokens
    max_num_seqs: int = 64  # sequences of a pass
    max_num_batched_tokens: int = 512  # tokens of a pass: more reads prompts faster, fewer answers more evenly
    enable_prefix_caching: bool = True
    speculative_tokens: int = 0  # the most that are guessed at once (see halfbyte.engine.speculate); 0: none
    enable_lora: bool = False  # adapters can be loaded
    overlap: bool | None = None  # launch a pass before the tokens of the last are known; None: except on a CPU

    def __post_init__(self) -> None:
        for name, least in (("block_size", 1), ("max_num_seqs", 1), ("max_num_batched_tokens", 1),
                            ("speculative_tokens", 0)):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} is {value!r}; it must be a whole number, {least} or more")
