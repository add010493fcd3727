"""Our logits equal transformers' for every family and every rope scaling, on tiny random models read from their files."""

from __future__ import annotations

import json

import pytest
import torch
from one_sequence import OneSequence

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.open import open_source
from halfbyte.models.attend import WholeSequences
from halfbyte.models.loader import load_network

transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-3
TOKENS = 48
BASE = {
    "vocab_size": 80,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "eos_token_id": None,
    "bos_token_id": None,
}

LLAMA = {
    "gqa": {},
    "mha": {"num_key_value_heads": 4},
    "mqa": {"num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "attention bias": {"attention_bias": True},
    "mlp bias": {"mlp_bias": True},
    "wide heads": {"head_dim": 16},
    "eps": {"rms_norm_eps": 0.1},
}
ROPE = {
    "theta": {"rope_type": "default", "rope_theta": 500.0},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic beyond the original length": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    "yarn attention_factor": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "attention_factor": 1.3,
    },
    "yarn mscale": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "mscale": 2.0,
        "mscale_all_dim": 0.5,
    },
    "yarn mscale alone": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "mscale": 2.0},
    "yarn betas, not truncated": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "beta_fast": 4.0,
        "beta_slow": 0.5,
        "truncate": False,
    },
}
OTHERS = {
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral, window": ("Mistral", {"sliding_window": 7}),
    "mistral, wide heads": ("Mistral", {"sliding_window": 7, "head_dim": 12}),
    "qwen2": ("Qwen2", {}),
    "qwen2, window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}),
    "qwen2, window not used": ("Qwen2", {"use_sliding_window": False, "sliding_window": 7, "max_window_layers": 1}),
    "qwen2, tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3, biases": ("Qwen3", {"head_dim": 10, "attention_bias": True}),
    "qwen3, window": (
        "Qwen3",
        {"head_dim": 8, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2},
    ),
}


def make(family, changes, folder):
    """Save a random model, with norms and biases that matter, and return it."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**(BASE | changes))
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if name.endswith("norm.weight"):
            weight.data.uniform_(0.5, 1.5, generator=generator)
        else:
            weight.data.normal_(0, 0.3 if weight.dim() > 1 else 0.2, generator=generator)
    model.save_pretrained(folder)
    return model


def load(folder):
    return load_network(Checkpoint(open_source(folder)), compute="float32")


def tokens(count=TOKENS):
    return torch.randint(0, BASE["vocab_size"], (count,), generator=torch.Generator().manual_seed(2))


def logits_of(network, ids):
    return network.logits(network.forward(ids, torch.arange(len(ids)), WholeSequences(network.config, 1)))


def check(model, folder):
    """Whole, and as a prompt followed by single tokens."""
    ids = tokens()
    with torch.no_grad():
        expected = model(ids[None]).logits[0]
    network = load(folder)
    assert expected.std() > 0.5, "a test of small logits would prove nothing"
    assert (logits_of(network, ids) - expected).abs().max() < TOLERANCE
    if network.config.rope.rope_type == "dynamic":
        return  # there the past depends on when it was computed
    past = OneSequence(network, TOKENS)
    stepwise = [past.next_logits(ids[:20].tolist())]
    stepwise += [past.next_logits([int(token)]) for token in ids[20:]]
    assert (torch.cat(stepwise) - expected[19:]).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", LLAMA)
def test_llama(name, tmp_path):
    check(make("Llama", LLAMA[name], tmp_path), tmp_path)


@pytest.mark.parametrize("name", OTHERS)
def test_other_families(name, tmp_path):
    family, changes = OTHERS[name]
    check(make(family, changes, tmp_path), tmp_path)


def with_rope(name):
    context = 32 if name.startswith("dynamic") else 128
    rope = {"rope_theta": 10000.0} | ROPE[name]
    return {"rope_parameters": rope, "max_position_embeddings": context}


@pytest.mark.parametrize("name", ROPE)
def test_rope(name, tmp_path):
    model = make("Llama", with_rope(name), tmp_path)
    check(model, tmp_path)
    plain = make("Llama", {}, tmp_path / "plain")
    with torch.no_grad():
        difference = (model(tokens()[None]).logits - plain(tokens()[None]).logits).abs().max()
    assert difference > 30 * TOLERANCE, "the scaling must show, or the test proves nothing"


@pytest.mark.parametrize("name", ["linear", "llama3", "yarn"])
def test_rope_in_the_older_spelling(name, tmp_path):
    model = make("Llama", with_rope(name), tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope | {"type": rope.pop("rope_type")}
    path.write_text(json.dumps(config))
    check(model, tmp_path)


def test_dynamic_rope_while_generating(tmp_path):
    """Greedy tokens from within the original length to far beyond it."""
    model = make("Llama", with_rope("dynamic beyond the original length"), tmp_path)
    ids = tokens(24)
    expected = model.generate(ids[None], max_new_tokens=40, do_sample=False, pad_token_id=0)[0, 24:].tolist()
    network = load(tmp_path)
    past, step, ours = OneSequence(network, 64), ids.tolist(), []
    for _ in range(40):
        step = [int(past.next_logits(step).argmax())]
        ours += step
    assert ours == expected


def test_short_sequences_with_dynamic_rope(tmp_path):
    model = make("Llama", with_rope("dynamic beyond the original length"), tmp_path)
    with torch.no_grad():
        expected = model(tokens(30)[None]).logits[0]
    assert (logits_of(load(tmp_path), tokens(30)) - expected).abs().max() < TOLERANCE


def test_equal_sequences_side_by_side(tmp_path):
    model = make("Qwen3", {"head_dim": 16}, tmp_path)
    ids = tokens(60).view(3, 20)
    with torch.no_grad():
        expected = model(ids).logits
    network = load(tmp_path)
    hidden = network.forward(ids.flatten(), torch.arange(20).repeat(3), WholeSequences(network.config, 3))
    assert (network.logits(hidden).view(3, 20, -1) - expected).abs().max() < TOLERANCE
