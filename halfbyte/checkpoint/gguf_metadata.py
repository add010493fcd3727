"""What a GGUF file says of its network: the reverse of gguf_config, from a ModelConfig to metadata."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from halfbyte.checkpoint.gguf_names import ARCHITECTURES

if TYPE_CHECKING:
    import numpy.typing as npt

    from halfbyte.checkpoint.config import ModelConfig, RopeConfig

# Mistral is what llama.cpp calls llama
ARCHITECTURE_OF = {"mistral": "llama", **{model_type: arch for arch, (_, model_type) in ARCHITECTURES.items()}}


def network_metadata(config: ModelConfig) -> dict[str, Any]:
    """The architecture's keys. Whole numbers are meant as uint32, others as float32."""
    arch = ARCHITECTURE_OF[config.model_type]
    own: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope.theta,
        **_rope(config.rope),
    }
    if config.head_dim * config.num_heads != config.hidden_size:
        own |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    slides = [window is not None for window in config.sliding_windows]
    if any(slides):
        own["attention.sliding_window"] = max(window for window in config.sliding_windows if window is not None)
    if len(set(slides)) > 1:
        own["attention.sliding_window_pattern"] = slides
    return {"general.architecture": arch, **{f"{arch}.{key}": value for key, value in own.items()}}


def lost_settings(config: ModelConfig) -> list[str]:
    """What of a network llama.cpp does not do, as sentences; short texts do not depend on it."""
    notes = []
    windows = {window for window in config.sliding_windows if window is not None}
    if windows:
        notes.append(
            f"llama.cpp attends to the whole context where this model slides a window of {max(windows)} tokens"
        )
    if config.rope.rope_type == "dynamic":
        notes.append(
            f"dynamic rope scaling is not in GGUF: good up to {config.rope.original_max_position_embeddings} tokens"
        )
    return notes


def rope_factors(config: ModelConfig) -> npt.NDArray[np.float32] | None:
    """What llama3 scaling divides each of the head_dim / 2 frequencies by, for rope_freqs.weight; None for others."""
    rope = config.rope
    if rope.rope_type != "llama3" or rope.original_max_position_embeddings is None:
        return None
    wavelength = 2 * math.pi * rope.theta ** (np.arange(0, config.head_dim, 2) / config.head_dim)
    smooth = (rope.original_max_position_embeddings / wavelength - rope.low_freq_factor) / (
        rope.high_freq_factor - rope.low_freq_factor
    )
    share = smooth.clip(0, 1)
    return np.asarray(1 / ((1 - share) / rope.factor + share), dtype=np.float32)


def _rope(rope: RopeConfig) -> dict[str, Any]:
    if rope.rope_type == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": rope.factor}
    if rope.rope_type != "yarn":
        return {}
    usual = 0.1 * math.log(rope.factor) + 1.0  # what llama.cpp multiplies q and k by, unless told otherwise
    magnitude = _magnitude(rope)
    return {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": rope.factor,
        "rope.scaling.original_context_length": rope.original_max_position_embeddings,
        "rope.scaling.yarn_beta_fast": rope.beta_fast,
        "rope.scaling.yarn_beta_slow": rope.beta_slow,
        **({} if magnitude is None else {"rope.scaling.attn_factor": magnitude / usual}),
    }


def _magnitude(rope: RopeConfig) -> float | None:
    """What a config makes of YaRN's magnitude, None for the usual."""
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        log = 0.1 * math.log(rope.factor)
        return (log * rope.mscale + 1.0) / (log * rope.mscale_all_dim + 1.0)
    return None
