"""A tiny model with a tokenizer and a chat template, and a way to call commands on it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from typer.testing import CliRunner

from halfbyte.checkpoint.config import ModelConfig
from halfbyte.checkpoint.expected import expected_tensors
from halfbyte.cli.main import app

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|im_start|>", "<|im_end|>")
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 256 + len(SPECIAL),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
}


def byte_tokenizer() -> Tokenizer:
    """A token a byte, and the special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return tokenizer


def write_tiny(folder, chat_template: str | None = CHATML) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(3)
    shapes = expected_tensors(ModelConfig.from_dict(CONFIG, "tiny"), None)
    tensors = {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    tokenizer_config = {"eos_token": "<|im_end|>"} | ({"chat_template": chat_template} if chat_template else {})
    for name, contents in (("config.json", CONFIG), ("tokenizer_config.json", tokenizer_config)):
        (folder / name).write_text(json.dumps(contents))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny(folder)
    return folder


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """The same model without a chat template."""
    folder = tmp_path_factory.mktemp("models") / "plain"
    write_tiny(folder, chat_template=None)
    return folder


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog, über den Zaun. " * 60)
    return path


@pytest.fixture(scope="session")
def quantized(tiny, text, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "tiny-AWQ"
    result = call("quantize", tiny, out, "--calib", text, "--samples", 4, "--seq-len", 64)
    assert result.exit_code == 0, result.stderr
    return out


@pytest.fixture
def damaged(tiny, tmp_path):
    """The tiny model with its weights cut short."""
    folder = tmp_path / "damaged"
    shutil.copytree(tiny, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return folder


def call(*arguments, stdin: str | bytes | None = None):
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)


@pytest.fixture(scope="session")
def run():
    return call
