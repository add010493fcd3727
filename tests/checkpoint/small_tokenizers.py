"""Sources in memory, and small tokenizers of both kinds made on the spot."""

from __future__ import annotations

import json
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE

from halfbyte.checkpoint.gguf_tokenizer import files_from_metadata

if TYPE_CHECKING:
    import torch

    from halfbyte.checkpoint.source import TensorInfo

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXT = [topics[name] for name in ("lists", "numbers", "strings", "while")] + ["naïve café, 你好世界, Привет 12345"]


class MemorySource:
    """A Source that is a dict of small files."""

    spec = "memory"
    folder = None

    def __init__(self, files: dict[str, bytes], config: dict[str, Any] | None = None):
        self._files = files
        self.config = config or {}

    def files(self) -> list[str]:
        return list(self._files)

    def file(self, name: str) -> bytes | None:
        return self._files.get(name)

    def tensors(self) -> dict[str, TensorInfo]:
        return {}

    def read(self, name: str) -> torch.Tensor:
        raise AssertionError(name)

    def origin(self, name: str) -> str:
        raise AssertionError(name)


def byte_level_files(**config: Any) -> dict[str, bytes]:
    """A byte-level BPE with ChatML's special tokens and a plain added one."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    backend.add_tokens(["<tool_call>"])
    settings = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": CHATML, **config}
    return {"tokenizer.json": backend.to_str().encode(), "tokenizer_config.json": json.dumps(settings).encode()}


def sentencepiece_metadata(**changes: Any) -> dict[str, Any]:
    """What a GGUF file says of a SentencePiece BPE with byte fallback; a score is minus the piece's rank."""
    backend = Tokenizer(BPE())
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=500, show_progress=False))
    pieces = [piece for piece, _ in sorted(backend.get_vocab().items(), key=lambda item: item[1])]
    merged = [piece for piece in pieces if len(piece) > 1]
    single = [piece for piece in pieces if len(piece) == 1 and piece not in "你好世界"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *merged, *single, "<tool>"]
    count = len(merged) + len(single)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(rank) for rank in range(count)] + [0.0],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * count + [4],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        **changes,
    }


def sentencepiece_files(**changes: Any) -> dict[str, bytes]:
    """The same as tokenizer files."""
    return files_from_metadata(sentencepiece_metadata(**changes))
