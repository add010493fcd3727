"""Config: the same reading as transformers' own classes, and every impossible value named."""

import json

import pytest
from tiny_checkpoints import LLAMA, of_family

from halfbyte.checkpoint.config import ModelConfig
from halfbyte.errors import ConfigError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 16.0,
    "beta_slow": 2.0,
    "attention_factor": 1.5,
    "truncate": False,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def read(**changes) -> ModelConfig:
    return ModelConfig.from_dict(LLAMA | changes, "tiny")


def peer_config(config: dict):
    from transformers import AutoConfig

    return AutoConfig.for_model(**config)


def check_parity(config: dict) -> ModelConfig:
    """Hold our reading of a config.json against transformers', and of transformers' own spelling of it too."""
    peer = peer_config(config)
    ours = ModelConfig.from_dict(config, "tiny")
    for name, theirs in {
        "vocab_size": peer.vocab_size,
        "hidden_size": peer.hidden_size,
        "intermediate_size": peer.intermediate_size,
        "num_layers": peer.num_hidden_layers,
        "num_heads": peer.num_attention_heads,
        "num_kv_heads": peer.num_key_value_heads,
        "head_dim": getattr(peer, "head_dim", None) or peer.hidden_size // peer.num_attention_heads,
        "rms_norm_eps": peer.rms_norm_eps,
        "max_position_embeddings": peer.max_position_embeddings,
        "tie_word_embeddings": peer.tie_word_embeddings,
    }.items():
        assert getattr(ours, name) == theirs, name
    rope = peer.rope_parameters
    assert ours.rope.theta == rope["rope_theta"]
    assert ours.rope.rope_type == rope["rope_type"]
    for name in rope.keys() - {"rope_theta", "rope_type", "type", "partial_rotary_factor"}:
        assert getattr(ours.rope, name) == rope[name], name
    assert ours.sliding_windows == peer_windows(peer)
    written = json.loads(peer.to_json_string(use_diff=False)) | {"architectures": config["architectures"]}
    assert ModelConfig.from_dict(written, "tiny") == ours
    return ours


def peer_windows(peer) -> tuple:
    if hasattr(peer, "layer_types"):
        return tuple(peer.sliding_window if kind == "sliding_attention" else None for kind in peer.layer_types)
    return (getattr(peer, "sliding_window", None),) * peer.num_hidden_layers


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rope_theta": 5e5},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 1e4},
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        {"rope_scaling": LLAMA3, "rope_theta": 5e5},
        {"rope_parameters": YARN | {"rope_theta": 1e6}},
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
        {"rope_scaling": {"type": "yarn", "factor": 4.0}},
        {"head_dim": 16, "tie_word_embeddings": True},
        {"rope_scaling": None, "rope_theta": 10000},
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
def test_parity_with_transformers(family, changes):
    check_parity(of_family(family, **changes))


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("mistral", {"sliding_window": 16}),
        ("mistral", {"sliding_window": None}),
        ("qwen2", {"sliding_window": 16}),
        ("qwen2", {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 1}),
        ("qwen3", {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 0}),
        ("qwen3", {"sliding_window": None, "use_sliding_window": True, "max_window_layers": 0}),
        (
            "qwen2",
            {
                "sliding_window": 16,
                "use_sliding_window": True,
                "layer_types": ["sliding_attention", "full_attention"],
            },
        ),
    ],
)
def test_sliding_windows_as_in_transformers(family, changes):
    check_parity(of_family(family, **changes))


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_of_transformers(family):
    required = ("architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size")
    config = of_family(family)
    config = {name: config[name] for name in (*required, "num_hidden_layers", "num_attention_heads")}
    if family != "llama":
        config["num_key_value_heads"] = 2  # the one default that is not taken over: the other classes say 8 or 32
    check_parity(config)


def test_biases_and_norms_of_each_family():
    told = {family: ModelConfig.from_dict(of_family(family), "tiny") for family in FAMILIES}
    assert [told[f].qkv_bias for f in FAMILIES] == [False, False, True, False]
    assert [told[f].qk_norm for f in FAMILIES] == [False, False, False, True]
    assert not any(config.o_bias or config.mlp_bias for config in told.values())
    llama = read(attention_bias=True, mlp_bias=True)
    assert (llama.qkv_bias, llama.o_bias, llama.mlp_bias) == (True, True, True)
    qwen3 = ModelConfig.from_dict(of_family("qwen3", attention_bias=True), "tiny")
    assert (qwen3.qkv_bias, qwen3.o_bias, qwen3.mlp_bias) == (True, True, False)


def test_missing_kv_heads_are_as_many_as_heads():
    config = {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"}
    assert ModelConfig.from_dict(config, "tiny").num_kv_heads == 4
    assert check_parity(LLAMA | {"num_key_value_heads": None}).num_kv_heads == 4


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [({}, None), ({"dtype": "bfloat16"}, "bfloat16"), ({"torch_dtype": "torch.float16"}, "float16")],
)
def test_dtype_in_either_spelling(changes, dtype):
    assert read(**changes).dtype == dtype


def test_the_model_type_is_enough():
    config = {name: value for name, value in LLAMA.items() if name != "architectures"}
    assert ModelConfig.from_dict(config, "tiny").architecture == "LlamaForCausalLM"


def test_max_window_layers_counts_from_the_first_that_slides():
    config = of_family("qwen2", use_sliding_window=True, sliding_window=16, max_window_layers=1)
    assert ModelConfig.from_dict(config, "tiny").sliding_windows == (None, 16)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architectures names GPT2LMHeadModel.*supported are LlamaForCausalLM"),
        ({"architectures": "LlamaForCausalLM"}, "architectures must be a list of strings"),
        ({"architectures": None, "model_type": "mamba"}, "mamba.*supported are"),
        ({"architectures": None, "model_type": None}, "architectures is missing"),
        ({"model_type": "qwen2"}, "model_type is 'qwen2', but"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'.*silu and swish"),
        ({"hidden_size": None}, "hidden_size is missing; it must be an integer"),
        ({"hidden_size": "32"}, "hidden_size must be an integer, found '32'"),
        ({"hidden_size": True}, "hidden_size must be an integer, found True"),
        ({"hidden_size": 0}, "hidden_size must be between 1 and"),
        ({"hidden_size": 33}, "hidden_size is 33, which 4 heads do not divide"),
        ({"hidden_size": 12}, "head_dim is 3; rotary embedding needs an even"),
        ({"vocab_size": -5}, "vocab_size must be between"),
        ({"vocab_size": 10**400}, "vocab_size must be between .* a huge integer"),
        ({"vocab_size": float("inf")}, "vocab_size must be an integer"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be between 1 and 10000"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3, which does not divide 4 heads"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be greater than 0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a finite number"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps must be a number"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false"),
        ({"dtype": "float8_e4m3fn"}, "dtype is 'float8_e4m3fn'.*supported are float16"),
        ({"rope_scaling": "linear"}, "rope_scaling must be an object"),
        ({"rope_scaling": {"type": "longrope"}}, r"rope_scaling\.type is 'longrope'.*supported are default, linear"),
        ({"rope_scaling": {"type": "linear"}}, r"rope_scaling\.factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": -1}}, r"rope_scaling\.factor must be greater than 0"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, r"rope_scaling\.low_freq_factor is missing"),
        ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "high_freq_factor is 1, not above"),
        ({"rope_parameters": {"rope_theta": 0}}, r"rope_parameters\.rope_theta must be greater than 0"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "rope_parameters differs per layer type"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1"),
    ],
)
def test_impossible_values_are_named(changes, says):
    with pytest.raises(ConfigError, match=rf"config\.json of tiny: .*{says}"):
        read(**changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"layer_types": ["full_attention"]}, "layer_types lists 1 layers, but num_hidden_layers is 2"),
        ({"layer_types": ["full_attention", "chunked"]}, "'chunked' for layer 1"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer 1 slide, but sliding_window is not set"),
        ({"use_sliding_window": True, "sliding_window": 0}, "sliding_window must be between 1"),
    ],
)
def test_impossible_windows_are_named(changes, says):
    with pytest.raises(ConfigError, match=says):
        ModelConfig.from_dict(of_family("qwen2", **changes), "tiny")
