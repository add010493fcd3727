"""Networks for the engine's tests: a tiny random one, and one that says what it is told to."""

from __future__ import annotations

import codecs
from dataclasses import replace

import torch

from halfbyte.checkpoint.config import ModelConfig, RopeConfig
from halfbyte.kernels.interface import AfterAttention, LinearWeight
from halfbyte.kernels.reference import ReferenceKernels
from halfbyte.models.network import Block, Network

CONFIG = ModelConfig(
    architecture="LlamaForCausalLM",
    model_type="llama",
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_layers=3,
    num_heads=6,
    num_kv_heads=2,
    head_dim=8,
    rms_norm_eps=1e-5,
    max_position_embeddings=1024,
    rope=RopeConfig(),
    tie_word_embeddings=True,
    qkv_bias=False,
    o_bias=False,
    mlp_bias=False,
    qk_norm=False,
    sliding_windows=(None, None, None),
)


def tiny_config(**changes) -> ModelConfig:
    return replace(CONFIG, **changes)


def random_network(config: ModelConfig, seed: int = 0) -> Network:
    generator = torch.Generator().manual_seed(seed)

    def weight(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) / shape[-1] ** 0.5

    c = config
    q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    blocks = [
        Block(
            input_norm=1 + weight(c.hidden_size) / 4,
            qkv=LinearWeight(weight(q + 2 * kv, c.hidden_size) * 2),
            q_norm=None,
            k_norm=None,
            after=AfterAttention(
                LinearWeight(weight(c.hidden_size, q)),
                1 + weight(c.hidden_size) / 4,
                LinearWeight(weight(2 * c.intermediate_size, c.hidden_size)),
                LinearWeight(weight(c.hidden_size, c.intermediate_size)),
            ),
        )
        for _ in range(c.num_layers)
    ]
    embedding = torch.randn(c.vocab_size, c.hidden_size, generator=generator)
    return Network(c, embedding, blocks, torch.ones(c.hidden_size), embedding, ReferenceKernels())


class ByteTokenizer:
    """A token is a byte; 256 ends the text."""

    eos_token_ids = frozenset({256})
    bos_token_id = None
    vocab_size = 257

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        return bytes(i for i in ids if i < 256).decode(errors="replace")

    def stream(self, *, skip_special_tokens: bool = True) -> ByteStream:
        return ByteStream()


class ByteStream:
    def __init__(self) -> None:
        self.utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        return "<end>" if token == 256 else self.utf8.decode(bytes([token]))

    def flush(self) -> str:
        return self.utf8.decode(b"", final=True)


class ScriptedNetwork:
    """Whatever it reads, after a prompt of n tokens it is sure of script[0], after one more of script[1], and so on."""

    def __init__(self, script: list[int], prompt: int, context: int = 64) -> None:
        self.config = tiny_config(vocab_size=257, max_position_embeddings=context)
        self.share = None
        self.script, self.prompt = script, prompt
        self.passes: list[int] = []
        self.device = torch.device("cpu")
        self.kernels = ReferenceKernels()

    def forward(self, tokens, positions, attend, lengths=None, adapt=None, watch=None):
        self.passes.append(len(tokens))
        return positions[:, None].float()

    def logits(self, hidden):
        logits = torch.zeros(len(hidden), 257)
        for row, position in zip(logits, hidden[:, 0].int().tolist(), strict=True):
            row[self.script[(position + 1 - self.prompt) % len(self.script)]] = 50.0
            row[ord("_")] = 25.0  # what comes where the first choice is banned
        return logits
