"""A model's shape, read once from config.json in any of its spellings; nothing else looks into that file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from halfbyte.checkpoint.fields import Fields
from halfbyte.errors import ConfigError

RopeType = Literal["default", "linear", "dynamic", "llama3", "yarn"]

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
_DEFAULT_CONTEXT = {"llama": 2048, "mistral": 131072, "qwen2": 32768, "qwen3": 32768}
_DTYPES = ("float16", "bfloat16", "float32")
MOST_LAYERS = 10_000  # far above any real network; a larger number is damage


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding: base period and how it is stretched. Field names are those of config.json.

    `original_max_position_embeddings` is set for dynamic, llama3 and yarn, which need it.
    """

    theta: float = 10000.0
    rope_type: RopeType = "default"
    factor: float = 1.0
    original_max_position_embeddings: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The network that the weights are for."""

    architecture: str  # the name in config.json's `architectures`, e.g. "LlamaForCausalLM"
    model_type: str  # "llama", "mistral", "qwen2", "qwen3"
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    rope: RopeConfig
    tie_word_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    sliding_windows: tuple[int | None, ...]  # per layer; None attends to everything before it
    dtype: str | None = None  # what the weights were published in: "float16", "bfloat16", "float32", or not said

    @classmethod
    def from_dict(cls, config: dict[str, Any], spec: str) -> ModelConfig:
        """Read a config.json. `spec` names the source in messages. Raises ConfigError naming the field."""
        fields = Fields(config, f"config.json of {spec}")
        architecture = _architecture(fields)
        family = ARCHITECTURES[architecture]
        _check_activation(fields)
        hidden_size = fields.integer("hidden_size")
        num_layers = fields.integer("num_hidden_layers", most=MOST_LAYERS)
        num_heads = fields.integer("num_attention_heads")
        max_position_embeddings = fields.integer("max_position_embeddings", _DEFAULT_CONTEXT[family])
        attention_bias = family in {"llama", "qwen3"} and fields.boolean("attention_bias", False)
        return cls(
            architecture=architecture,
            model_type=family,
            vocab_size=fields.integer("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=fields.integer("intermediate_size"),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=_num_kv_heads(fields, num_heads),
            head_dim=_head_dim(fields, family, hidden_size, num_heads),
            rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
            max_position_embeddings=max_position_embeddings,
            rope=read_rope(fields, max_position_embeddings),
            tie_word_embeddings=fields.boolean("tie_word_embeddings", False),
            qkv_bias=family == "qwen2" or attention_bias,
            o_bias=attention_bias,
            mlp_bias=family == "llama" and fields.boolean("mlp_bias", False),
            qk_norm=family == "qwen3",
            sliding_windows=_sliding_windows(fields, family, num_layers),
            dtype=_dtype(fields),
        )


def _architecture(fields: Fields) -> str:
    supported = ", ".join(ARCHITECTURES)
    named = fields.strings("architectures") or []
    model_type = fields.string("model_type", "")
    if not named and not model_type:
        raise fields.fail("architectures", f"is missing, and model_type too; supported are {supported}")
    if not named:
        named = [name for name, family in ARCHITECTURES.items() if family == model_type] or [model_type]
    if named[0] not in ARCHITECTURES:
        raise fields.fail("architectures", f"names {named[0]}, which is not supported; supported are {supported}")
    if model_type not in {"", ARCHITECTURES[named[0]]}:
        raise fields.fail("model_type", f"is {model_type!r}, but architectures names {named[0]}; correct one of them")
    return named[0]


def _check_activation(fields: Fields) -> None:
    activation = fields.string("hidden_act", "silu")
    if activation not in {"silu", "swish"}:
        raise fields.fail("hidden_act", f"is {activation!r}, which is not supported; supported are silu and swish")


def _num_kv_heads(fields: Fields, num_heads: int) -> int:
    num_kv_heads = fields.integer("num_key_value_heads", num_heads)
    if num_heads % num_kv_heads:
        raise fields.fail("num_key_value_heads", f"is {num_kv_heads}, which does not divide {num_heads} heads")
    return num_kv_heads


def _head_dim(fields: Fields, family: str, hidden_size: int, num_heads: int) -> int:
    if family == "qwen3" and "head_dim" not in fields.values:
        return 128
    if not fields.has("head_dim"):
        if hidden_size % num_heads:
            raise fields.fail("hidden_size", f"is {hidden_size}, which {num_heads} heads do not divide")
        head_dim = hidden_size // num_heads
    else:
        head_dim = fields.integer("head_dim")
    if head_dim % 2:
        raise fields.fail("head_dim", f"is {head_dim}; rotary embedding needs an even number")
    return head_dim


def _sliding_windows(fields: Fields, family: str, num_layers: int) -> tuple[int | None, ...]:
    """One window a layer. Mistral slides everywhere; Qwen from max_window_layers on, and only when told to."""
    if family == "llama":
        return (None,) * num_layers
    if family == "mistral":
        window = _window(fields) if fields.values.get("sliding_window", 4096) is not None else None
        first = 0
    else:
        window = _window(fields) if fields.boolean("use_sliding_window", False) else None
        first = fields.integer("max_window_layers", 28, least=0)
    kinds = fields.strings("layer_types")
    if kinds is None:
        return tuple(window if layer >= first else None for layer in range(num_layers))
    return _typed_windows(fields, kinds, window, num_layers)


def _window(fields: Fields) -> int | None:
    if "sliding_window" in fields.values and not fields.has("sliding_window"):
        return None
    return fields.integer("sliding_window", 4096)


def _typed_windows(fields: Fields, kinds: list[str], window: int | None, num_layers: int) -> tuple[int | None, ...]:
    if len(kinds) != num_layers:
        raise fields.fail("layer_types", f"lists {len(kinds)} layers, but num_hidden_layers is {num_layers}")
    for layer, kind in enumerate(kinds):
        if kind not in {"full_attention", "sliding_attention"}:
            raise fields.fail(
                "layer_types", f"has {kind!r} for layer {layer}; supported are full_attention and sliding_attention"
            )
        if kind == "sliding_attention" and window is None:
            raise fields.fail("layer_types", f"makes layer {layer} slide, but sliding_window is not set or not in use")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _dtype(fields: Fields) -> str | None:
    for name in ("dtype", "torch_dtype"):
        if fields.has(name):
            dtype = fields.string(name).removeprefix("torch.")
            if dtype not in _DTYPES:
                raise fields.fail(name, f"is {dtype!r}, which is not supported; supported are {', '.join(_DTYPES)}")
            return dtype
    return None


def read_rope(fields: Fields, max_position_embeddings: int) -> RopeConfig:
    """Rotary settings from `rope_parameters`, or from `rope_scaling` beside `rope_theta`; the latter wins if both."""
    rope = fields.object("rope_scaling")
    if rope is None or not rope.values:
        rope = fields.object("rope_parameters") or Fields({}, fields.where, fields.prefix)
    theta = rope.number("rope_theta") if rope.has("rope_theta") else fields.number("rope_theta", 10000.0)
    _check_whole_rotary(rope, fields)
    rope_type = _rope_type(rope)
    if rope_type == "default":
        return RopeConfig(theta=theta)
    original = _original_context(rope, fields, rope_type, max_position_embeddings)
    factor = _rope_factor(rope, rope_type, original, max_position_embeddings)
    if rope_type == "llama3":
        low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
        if high <= low:
            raise rope.fail("high_freq_factor", f"is {high:g}, not above low_freq_factor ({low:g})")
        return RopeConfig(theta, rope_type, factor, original, low, high)
    if rope_type != "yarn":
        return RopeConfig(theta, rope_type, factor, original)
    return RopeConfig(
        theta=theta,
        rope_type=rope_type,
        factor=factor,
        original_max_position_embeddings=original,
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
        attention_factor=rope.optional_number("attention_factor"),
        mscale=rope.optional_number("mscale", above=None),
        mscale_all_dim=rope.optional_number("mscale_all_dim", above=None),
        truncate=rope.boolean("truncate", True),
    )


def _rope_type(rope: Fields) -> RopeType:
    name = "rope_type" if rope.has("rope_type") else "type"
    found = rope.string(name, "default")
    if any(isinstance(value, dict) for value in rope.values.values()):
        raise ConfigError(f"{rope.where}: {rope.prefix.rstrip('.')} differs per layer type, which is not supported")
    for known in get_args(RopeType):
        if found == known:
            return known  # type: ignore[no-any-return]
    raise rope.fail(name, f"is {found!r}, which is not supported; supported are {', '.join(get_args(RopeType))}")


def _check_whole_rotary(rope: Fields, fields: Fields) -> None:
    for place in (rope, fields):
        if place.has("partial_rotary_factor") and place.number("partial_rotary_factor") != 1.0:
            raise place.fail("partial_rotary_factor", "must be 1: rotating a part of each head is not supported")


def _original_context(rope: Fields, fields: Fields, rope_type: str, max_position_embeddings: int) -> int | None:
    if rope_type == "linear":
        return None
    if rope_type == "dynamic":  # stretches beyond the whole context, whatever else is written
        return max_position_embeddings
    place = fields if fields.has("original_max_position_embeddings") else rope
    return place.integer("original_max_position_embeddings", max_position_embeddings)


def _rope_factor(rope: Fields, rope_type: str, original: int | None, max_position_embeddings: int) -> float:
    if rope_type == "yarn" and original is not None and not rope.has("factor"):
        return max_position_embeddings / original
    return rope.number("factor")
