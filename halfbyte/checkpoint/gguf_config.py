"""A config.json made from a GGUF file's metadata."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from halfbyte.checkpoint.config import MOST_LAYERS
from halfbyte.checkpoint.fields import Fields
from halfbyte.checkpoint.gguf_names import ARCHITECTURES, ROPE_FACTORS
from halfbyte.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from halfbyte.checkpoint.gguf_header import GGUFHeader

# Llama 3.1's constants; llama.cpp writes only the factors that follow from them
LLAMA3_LOW, LLAMA3_HIGH, LLAMA3_CONTEXT = 1.0, 4.0, 8192


def hf_config(
    header: GGUFHeader, where: str, dtype: str, rope_factors: Callable[[], npt.NDArray[np.float32]]
) -> dict[str, Any]:
    """config.json's contents. `rope_factors` reads rope_freqs.weight; it is called where the file has one.

    Raises ConfigError for an architecture or a setting that is not supported.
    """
    metadata = header.metadata
    arch = Fields(metadata, where).string("general.architecture")
    if arch not in ARCHITECTURES:
        supported = ", ".join(ARCHITECTURES)
        raise ConfigError(f"{where}: GGUF architecture {arch!r:.60} is not supported; supported are {supported}")
    fields = Fields(_own(metadata, arch), where, f"{arch}.")
    _refuse(fields)
    hidden_size = fields.integer("embedding_length")
    num_heads = _same_everywhere(fields, "attention.head_count")
    head_dim = fields.integer("attention.key_length", max(hidden_size // num_heads, 1))
    if fields.integer("rope.dimension_count", head_dim) != head_dim:
        raise fields.fail(
            "rope.dimension_count", f"must be the head size {head_dim}: partial rotation is not supported"
        )
    if fields.integer("attention.value_length", head_dim) != head_dim:
        raise fields.fail("attention.value_length", f"must be the head size {head_dim}")
    factors = header.tensors.get(ROPE_FACTORS)
    if factors and factors.shape != (head_dim // 2,):
        raise ConfigError(f"{where}: {ROPE_FACTORS} has shape {list(factors.shape)}, expected [{head_dim // 2}]")
    theta = fields.number("rope.freq_base", 10000.0)
    context = fields.integer("context_length")
    num_layers = fields.integer("block_count", most=MOST_LAYERS)
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[arch][0]],
        "model_type": ARCHITECTURES[arch][1],
        "vocab_size": _vocab_size(header, fields),
        "hidden_size": hidden_size,
        "intermediate_size": _same_everywhere(fields, "feed_forward_length"),
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": _same_everywhere(fields, "attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": context,
        "rms_norm_eps": _as_written(fields.number("attention.layer_norm_rms_epsilon")),
        "rope_theta": _as_written(theta),
        "rope_scaling": _rope_scaling(fields, context, theta, head_dim, rope_factors if factors else None),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "attention_bias": arch == "llama" and "blk.0.attn_q.bias" in header.tensors,
        "mlp_bias": arch == "llama" and "blk.0.ffn_up.bias" in header.tensors,
        "torch_dtype": dtype,
        "use_cache": True,
    }
    return config | _sliding(fields, arch, num_layers) | special_tokens(metadata)


def special_tokens(metadata: dict[str, Any]) -> dict[str, int]:
    """bos_token_id, eos_token_id and pad_token_id, as far as the metadata has them."""
    keys = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    found = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in keys.items()}
    return {name: value for name, value in found.items() if type(value) is int}


def _own(metadata: dict[str, Any], arch: str) -> dict[str, Any]:
    """The architecture's own keys without its name."""
    return {key.removeprefix(f"{arch}."): value for key, value in metadata.items() if key.startswith(f"{arch}.")}


def _refuse(fields: Fields) -> None:
    if fields.integer("expert_count", 0, least=0):
        raise fields.fail("expert_count", "is set: mixtures of experts are not supported")
    for name in ("attention.scale", "attention.clamp_kqv", "attn_logit_softcapping", "logit_scale", "embedding_scale"):
        if fields.has(name) and fields.number(name, above=None) not in {0.0, 1.0}:
            raise fields.fail(name, "is set, which is not supported")


def _same_everywhere(fields: Fields, name: str, default: int | None = None) -> int:
    """A number that llama.cpp may write once or once a layer."""
    values = fields.values.get(name)
    if not isinstance(values, np.ndarray):
        return fields.integer(name, default)
    if values.size == 0 or (values != values[0]).any():
        raise fields.fail(name, "differs between layers, which is not supported")
    return Fields({name: values[0].item()}, fields.where, fields.prefix).integer(name)


def _vocab_size(header: GGUFHeader, fields: Fields) -> int:
    embedding = header.tensors.get("token_embd.weight")
    return embedding.shape[0] if embedding and embedding.shape else fields.integer("vocab_size")


def _as_written(value: float) -> float:
    """The short decimal that a float32 was written from: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _sliding(fields: Fields, arch: str, num_layers: int) -> dict[str, Any]:
    window = fields.integer("attention.sliding_window", 0, least=0)
    if not window:
        return {}
    slides = _slides(fields, num_layers)
    kinds = {"layer_types": ["sliding_attention" if layer else "full_attention" for layer in slides]}
    if arch == "llama":  # among those that llama.cpp calls llama, only Mistral slides
        some = {} if all(slides) else kinds
        return {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": window, **some}
    first = slides.index(True) if True in slides else num_layers  # transformers reads layer_types before it
    return {"use_sliding_window": True, "sliding_window": window, "max_window_layers": first, **kinds}


def _slides(fields: Fields, num_layers: int) -> list[bool]:
    """Which layers slide: all, those that a list says, or all but each n-th."""
    name = "attention.sliding_window_pattern"
    if not fields.has(name):
        return [True] * num_layers
    pattern = fields.values[name]
    if not isinstance(pattern, np.ndarray):
        n = fields.integer(name, least=0)
        return [n == 0 or layer % n < n - 1 for layer in range(num_layers)]
    if pattern.dtype != np.bool_ or len(pattern) != num_layers:
        raise fields.fail(name, f"must hold true or false for each of {num_layers} layers")
    return [bool(layer) for layer in pattern]


def _rope_scaling(
    fields: Fields,
    context: int,
    theta: float,
    head_dim: int,
    rope_factors: Callable[[], npt.NDArray[np.float32]] | None,
) -> dict[str, Any] | None:
    factor_name = "rope.scaling.factor" if fields.has("rope.scaling.factor") else "rope.scale_linear"
    kind = fields.string("rope.scaling.type", "linear" if fields.has(factor_name) else "none")
    if rope_factors is not None:
        if kind not in {"none", "llama3"}:
            raise fields.fail("rope.scaling.type", f"is {kind!r:.60} beside rope_freqs.weight, which is not supported")
        return _llama3(rope_factors(), theta, head_dim, fields.where)
    if kind == "none":
        return None
    if kind == "linear":
        factor = fields.number(factor_name)
        return {"rope_type": "linear", "factor": factor} if factor != 1.0 else None
    if kind == "yarn":
        return _yarn(fields, context)
    raise fields.fail(
        "rope.scaling.type", f"is {kind!r:.60}, which is not supported; supported are none, linear and yarn"
    )


def _yarn(fields: Fields, context: int) -> dict[str, Any]:
    factor = fields.number("rope.scaling.factor", above=1e-3)
    original = fields.integer("rope.scaling.original_context_length", max(round(context / factor), 1))
    scaling: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original,
    }
    for name in ("beta_fast", "beta_slow"):
        if fields.has(f"rope.scaling.yarn_{name}"):
            scaling[name] = fields.number(f"rope.scaling.yarn_{name}")
    if fields.number("rope.scaling.attn_factor", 1.0) != 1.0:  # llama.cpp multiplies it into the usual magnitude
        scaling["attention_factor"] = fields.number("rope.scaling.attn_factor") * (0.1 * math.log(factor) + 1.0)
    if fields.number("rope.scaling.yarn_log_multiplier", 0.0, above=None):
        raise fields.fail("rope.scaling.yarn_log_multiplier", "is set, which is not supported")
    return scaling


def _wavelengths(theta: float, head_dim: int) -> npt.NDArray[np.float64]:
    return np.asarray(2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim), dtype=np.float64)


def llama3_factors(
    theta: float,
    head_dim: int,
    factor: float,
    context: float = LLAMA3_CONTEXT,
    low: float = LLAMA3_LOW,
    high: float = LLAMA3_HIGH,
) -> npt.NDArray[np.float64]:
    """What llama3 stretching divides each of the head_dim / 2 frequencies by."""
    smooth = (context / _wavelengths(theta, head_dim) - low) / (high - low)
    share = smooth.clip(0, 1)
    divisors: npt.NDArray[np.float64] = 1 / ((1 - share) / factor + share)
    return divisors


def _llama3(found: npt.NDArray[np.float32], theta: float, head_dim: int, where: str) -> dict[str, Any] | None:
    """A llama3 setting that these factors come from, held against what it computes."""
    if not np.isfinite(found).all():
        raise ConfigError(f"{where}: rope_freqs.weight must hold {head_dim // 2} finite factors")
    factor = float(found.max())
    if np.all(found == 1.0):
        return None
    usual = (LLAMA3_CONTEXT, LLAMA3_LOW, LLAMA3_HIGH)
    for context, low, high in (usual, *_llama3_constants(found.astype(np.float64), theta, head_dim)):
        if factor >= 1 and np.allclose(llama3_factors(theta, head_dim, factor, context, low, high), found, rtol=1e-4):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": context,
            }
    raise ConfigError(
        f"{where}: rope_freqs.weight is not what llama3 rope scaling of {factor:g} gives, whatever the original "
        "context; other per-frequency factors are not supported"
    )


def _llama3_constants(found: npt.NDArray[np.float64], theta: float, head_dim: int) -> list[tuple[int, float, float]]:
    """Original contexts, with low and high factor, that may have given these factors, for other than Llama 3's own.

    Between the two factors a frequency keeps the share (context / wavelength - low) / (high - low): a straight line
    over 1 / wavelength. Its two numbers are all that there is to know, so high - low may be what Llama 3 has.
    """
    spread, factor = LLAMA3_HIGH - LLAMA3_LOW, found.max()
    wavelength = _wavelengths(theta, head_dim)
    between = (found > 1 + 1e-4) & (found < factor * (1 - 1e-4))
    if not between.any():  # all that is known is where the plain ones end and the stretched ones begin
        last, first = wavelength[found < factor].max(initial=0), wavelength[found == factor].min()
        return [(max(round((LLAMA3_HIGH * last + LLAMA3_LOW * first) / 2), 1), LLAMA3_LOW, LLAMA3_HIGH)]
    share = (1 / found[between] - 1 / factor) / (1 - 1 / factor)
    one = float(np.mean((share * spread + LLAMA3_LOW) * wavelength[between]))
    settings = [(max(round(one), 1), LLAMA3_LOW, LLAMA3_HIGH)]
    if between.sum() > 1:
        slope, start = np.polyfit(1 / wavelength[between], share, 1)
        low = float(-start * spread)
        settings.append((max(round(float(slope) * spread), 1), low, low + spread))
    return settings
