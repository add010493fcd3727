"""How long a sequence a model can take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfbyte.errors import ConfigError

if TYPE_CHECKING:
    from halfbyte.checkpoint.config import ModelConfig


def context_length(config: ModelConfig) -> int:
    """The longest sequence that the model was made for, in tokens, after rotary scaling, as vLLM reckons it."""
    rope = config.rope
    if rope.rope_type in ("linear", "dynamic"):
        return int(config.max_position_embeddings * rope.factor)
    if rope.rope_type == "yarn" and rope.original_max_position_embeddings:
        return int(rope.original_max_position_embeddings * rope.factor)
    return config.max_position_embeddings


def choose_context(config: ModelConfig, max_model_len: int | None) -> int:
    """The context to serve with. Raises ConfigError if more is asked for than the model was made for."""
    longest = context_length(config)
    if max_model_len is None:
        return longest
    if isinstance(max_model_len, bool) or not isinstance(max_model_len, int) or not 2 <= max_model_len <= longest:
        raise ConfigError(f"max_model_len is {max_model_len!r}; this model takes 2 to {longest} tokens")
    return max_model_len
