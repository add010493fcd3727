"""The smallest GGUF files that have everything: a network in several types, and a tokenizer of either kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gguf
import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import quantize

from halfbyte.checkpoint.config import ModelConfig
from halfbyte.checkpoint.expected import expected_tensors
from halfbyte.checkpoint.gguf_names import gguf_name

if TYPE_CHECKING:
    from pathlib import Path

TYPES = [getattr(GGMLQuantizationType, name) for name in ("Q4_0", "Q8_0", "F16", "Q5_1", "BF16")]
SIZES = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}


def write_small_files(folder: Path) -> list[Path]:
    """Llama with SentencePiece pieces, and Qwen2 with byte-level BPE."""
    pieces = ["<unk>", "<s>", "</s>", "\u2581", "a", "\u2581a", "t", "e", "te", "x", "xt", "text", "1", "2", "12", ","]
    alphabet = sorted(bytes_to_text())
    bpe = ["<|end|>", *alphabet, "te", "xt", "text"]
    kinds = [1] * len(pieces)
    kinds[:3] = [2, 3, 3]
    return [
        small_file(folder / "sentencepiece.gguf", "llama", "llama", pieces, kinds),
        small_file(folder / "bpe.gguf", "qwen2", "gpt2", bpe, [3] + [1] * (len(bpe) - 1), ["t e", "x t", "te xt"]),
    ]


def bytes_to_text() -> list[str]:
    """The letters that byte-level BPE writes bytes as."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in own] + [chr(256 + n) for n in range(256 - len(own))]


def small_file(
    path: Path, arch: str, model: str, tokens: list[str], kinds: list[int], merges: list[str] | None = None
) -> Path:
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name("Small"), writer.add_license("mit"), writer.add_languages(["en"])
    writer.add_context_length(64), writer.add_block_count(1), writer.add_rope_freq_base(10000.0)
    writer.add_embedding_length(32), writer.add_feed_forward_length(32), writer.add_layer_norm_rms_eps(1e-5)
    writer.add_head_count(4), writer.add_head_count_kv(2), writer.add_key_length(8), writer.add_value_length(8)
    writer.add_rope_dimension_count(8)
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR), writer.add_rope_scaling_factor(2.0)
    writer.add_tokenizer_model(model), writer.add_token_list(tokens), writer.add_token_types(kinds)
    if merges is None:
        writer.add_token_scores([-float(n) for n in range(len(tokens))])
    else:
        writer.add_tokenizer_pre("qwen2"), writer.add_token_merges(merges)
    writer.add_eos_token_id(0 if merges else 2), writer.add_chat_template("{{ messages[0].content }}")
    config = SIZES | {"architectures": [f"{arch.title()}ForCausalLM"], "model_type": arch, "vocab_size": len(tokens)}
    config |= {"num_hidden_layers": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-5}
    random = np.random.default_rng(0)
    for n, (name, shape) in enumerate(expected_tensors(ModelConfig.from_dict(config, "small"), None).items()):
        values = random.standard_normal(shape).astype(np.float32)
        kind = GGMLQuantizationType.F32 if len(shape) == 1 else TYPES[n % len(TYPES)]
        writer.add_tensor(gguf_name(name), quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file()
    writer.close()
    return path
