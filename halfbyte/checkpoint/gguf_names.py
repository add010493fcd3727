"""What llama.cpp calls things, and what Hugging Face calls them: tensors, metadata keys, architectures."""

from __future__ import annotations

import re

# GGUF architecture -> Hugging Face architecture and model type
ARCHITECTURES = {
    "llama": ("LlamaForCausalLM", "llama"),
    "qwen2": ("Qwen2ForCausalLM", "qwen2"),
    "qwen3": ("Qwen3ForCausalLM", "qwen3"),
}

# Architectures whose q and k rows llama.cpp reorders, so that the two halves of each head interleave
INTERLEAVED_ROPE = frozenset({"llama"})

OUTER_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}

BLOCK_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

ROPE_FACTORS = "rope_freqs.weight"  # llama3's stretching, one divisor a frequency; not a weight of the network

_OUTER_NAMES = {hf: gguf for gguf, hf in OUTER_TENSORS.items()}
_BLOCK_NAMES = {hf: gguf for gguf, hf in BLOCK_TENSORS.items()}
_HF_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


def hf_name(name: str) -> str:
    """The Hugging Face name of a GGUF tensor; one that no supported network has keeps its own."""
    if name in OUTER_TENSORS:
        return OUTER_TENSORS[name]
    match = _BLOCK.fullmatch(name)
    if match is None or match[2] not in BLOCK_TENSORS:
        return name
    return f"model.layers.{match[1]}.{BLOCK_TENSORS[match[2]]}.{match[3]}"


def gguf_name(name: str) -> str:
    """The GGUF name of a tensor of a supported network, by its Hugging Face name."""
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    match = _HF_LAYER.fullmatch(name)
    assert match is not None, name
    return f"blk.{match[1]}.{_BLOCK_NAMES[match[2]]}.{match[3]}"


def interleaved_heads(name: str) -> str | None:
    """Which heads a tensor's rows belong to, if it is one that llama.cpp interleaves: "q", "k" or None."""
    match = _BLOCK.fullmatch(name)
    return {"attn_q": "q", "attn_k": "k"}.get(match[2]) if match else None
