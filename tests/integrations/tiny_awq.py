"""Tiny random AWQ repositories of every family, and transformers' float model of what they stand for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM

from halfbyte.checkpoint.awq import pack_gemm
from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.config import ModelConfig
from halfbyte.checkpoint.expected import expected_tensors, linear_shapes
from halfbyte.checkpoint.int4 import Int4Weight
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.quant_config import AwqConfig, config_json_block, legacy_json
from halfbyte.integrations.fused_model import transformers_config

if TYPE_CHECKING:
    from pathlib import Path

GROUP = 32
BASE = {
    "vocab_size": 257,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "eos_token_id": 256,
    "pad_token_id": 256,
    "torch_dtype": "float16",
}
FAMILIES = {
    "llama": BASE | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
    "llama-biased": BASE
    | {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama-tied": BASE | {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": True},
    "mistral": BASE | {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 6},
    "qwen2": BASE | {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
    "qwen3": BASE | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 16},
}


def write_tokenizer(folder: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<eos>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {"eos_token": "<eos>", "pad_token": "<eos>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))


def random_tensors(config: dict, awq: AwqConfig | None) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    model = ModelConfig.from_dict(config, "tiny")
    tensors = {name: torch.randn(shape, generator=g) / 8 for name, shape in expected_tensors(model, awq).items()}
    for name, tensor in tensors.items():
        if "norm" in name:
            tensors[name] = 1 + tensor
        elif "_proj.weight" not in name:
            tensors[name] = tensor * 4
    for prefix, (n, k) in linear_shapes(model).items():
        if awq is not None and awq.converts(prefix):
            q = torch.randint(0, 16, (n, k), generator=g, dtype=torch.uint8)
            z = torch.randint(6, 10, (n, k // GROUP), generator=g, dtype=torch.uint8)
            s = (0.2 + torch.rand(n, k // GROUP, generator=g)).mul(0.4 / k**0.5).to(torch.float16)
            tensors |= {f"{prefix}.{part}": t for part, t in pack_gemm(Int4Weight(q, s, z)).items()}
    return {name: t.to(torch.float16) if t.is_floating_point() else t for name, t in tensors.items()}


def write_awq(
    folder: Path, family: str = "llama", spelling: str = "both", untouched: tuple[str, ...] = (), **changes
) -> Path:
    """spelling: which of the files say that it is AWQ, "config", "legacy" or "both"."""
    folder.mkdir(parents=True, exist_ok=True)
    config = FAMILIES[family] | changes
    awq = AwqConfig(group_size=GROUP, modules_to_not_convert=untouched)
    save_file(random_tensors(config, awq), folder / "model.safetensors", metadata={"format": "pt"})
    if spelling != "legacy":
        config |= {"quantization_config": config_json_block(awq)}
    if spelling != "config":
        (folder / "quant_config.json").write_text(json.dumps(legacy_json(awq)))
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)
    return folder


def write_float(folder: Path, family: str = "llama", **changes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = FAMILIES[family] | changes
    save_file(random_tensors(config, None), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)
    return folder


def dequantized(folder: Path):
    """transformers' own float32 network with the weights that the repository stands for."""
    checkpoint = Checkpoint(open_source(folder))
    config = transformers_config(checkpoint.source)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    linears = linear_shapes(checkpoint.config)
    state = {
        name: checkpoint.tensor(name).float() for name in checkpoint.expected if name.endswith((".weight", ".bias"))
    }
    for prefix in linears:
        weight = checkpoint.linear(prefix)
        state[f"{prefix}.weight"] = weight.dequantize() if isinstance(weight, Int4Weight) else weight.float()
    if checkpoint.config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    return model.eval()
