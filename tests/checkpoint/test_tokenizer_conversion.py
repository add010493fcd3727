"""Tokenizers from files older than tokenizer.json."""

from __future__ import annotations

import json
import struct
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import MemorySource, byte_level_files, sentencepiece_files, sentencepiece_metadata

from halfbyte.checkpoint.sentencepiece_model import sentencepiece_metadata as read_model
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.errors import TokenizerError

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ["", "Hello, world!", "  two spaces, then é and 你好 😀\n\n\ttab   ", "a</s> b<tool> c"]


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    low = bytes([value & 0x7F | (0x80 if value > 0x7F else 0)])
    return low if value <= 0x7F else low + varint(value >> 7)


def field(number: int, value: int | float | bytes) -> bytes:
    """A protocol-buffers field, as its wire format says."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


@cache
def model(algorithm: int = 2, charsmap: bytes = b"", squeeze: int = 0) -> bytes:
    metadata = sentencepiece_metadata()
    columns = (metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type"))
    pieces = [
        field(1, field(1, token.encode()) + field(2, score) + field(3, kind))
        for token, score, kind in zip(*columns, strict=True)
    ]
    trainer = field(3, algorithm) + field(35, 1) + field(40, 0) + field(43, -1)
    normalizer = field(1, b"identity") + field(2, charsmap) + field(3, 1) + field(4, squeeze)
    return b"".join(pieces) + field(2, trainer) + field(3, normalizer)


def made(config: dict[str, Any] | None = None, **files: bytes) -> Tokenizer:
    config_file = {"tokenizer_config.json": json.dumps(config or {}).encode()}
    named = {f"{name}.json": data for name, data in files.items()}
    return Tokenizer.from_source(MemorySource({"tokenizer.model": model(), **config_file, **named}))


def test_a_sentencepiece_model_is_what_its_pieces_and_scores_say() -> None:
    reference = Tokenizer.from_source(MemorySource(sentencepiece_files()))
    ours = made()
    assert (ours.bos_token_id, ours.eos_token_ids, ours.pad_token_id) == (1, {2}, None)
    for text in TEXTS:
        assert ours.encode(text) == reference.encode(text)
        assert ours.decode(ours.encode(text)) == reference.decode(reference.encode(text))


def test_what_the_config_adds() -> None:
    assert made({"add_bos_token": False, "add_eos_token": True}).encode("a")[-1] == 2
    assert made({"add_bos_token": False}).encode("a")[0] != 1
    no_prefix = made({"add_prefix_space": False})
    assert no_prefix.backend.encode("a", add_special_tokens=False).tokens == ["a"]
    assert no_prefix.decode(no_prefix.encode(" a")) == " a"
    for legacy, tokens in ((True, ["▁", "a", "</s>", "▁", "b"]), (False, ["▁", "a", "</s>", "b"])):
        encoding = made({"legacy": legacy}).backend.encode("a</s>b", add_special_tokens=False)
        assert "".join(encoding.tokens) == "".join(tokens)
    size = made().vocab_size
    added = made({"pad_token": "<pad>"}, added_tokens=json.dumps({"<x>": size + 1, "<pad>": size}).encode())
    assert added.pad_token_id == size
    assert added.encode("<x>", add_special_tokens=False) == [size + 1]
    with pytest.raises(TokenizerError, match=r"added_tokens\.json must give each token a number"):
        made(added_tokens=b'{"<x>": "1"}')


@pytest.mark.parametrize(
    "other", [model(algorithm=1), model(charsmap=b"x"), model(squeeze=1), b"", b"IQ== 0\nIg== 1\n", model()[:-3]]
)
def test_other_models_are_left_to_transformers(other: bytes) -> None:
    assert read_model(other) is None


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 400))
def test_damage_is_not_taken_for_a_model(noise: bytes, at: int) -> None:
    damaged = model()[:at] + noise + model()[at + len(noise) :]
    metadata = read_model(damaged)
    assert metadata is None or metadata["tokenizer.ggml.tokens"]


def test_a_model_without_sense_is_named() -> None:
    pieces = b"".join(field(1, field(1, text)) for text in (b"a", b"a"))
    data = pieces + field(2, field(3, 2)) + field(3, field(4, 0))
    with pytest.raises(TokenizerError, match=r"memory: tokenizer\.model: .*'a' is both token 0 and 1"):
        Tokenizer.from_source(MemorySource({"tokenizer.model": data}))


class FolderSource(MemorySource):
    def __init__(self, folder: Path, files: dict[str, bytes]):
        super().__init__(files)
        self.folder = folder  # type: ignore[assignment]
        for name, data in files.items():
            (folder / name).write_bytes(data)


def test_byte_level_files_are_converted_by_transformers(tmp_path: Path) -> None:
    state = json.loads(byte_level_files()["tokenizer.json"])["model"]
    merges = "\n".join(" ".join(pair) for pair in state["merges"])
    files = {
        "vocab.json": json.dumps(state["vocab"]).encode(),
        "merges.txt": f"#version: 0.2\n{merges}\n".encode(),
        "tokenizer_config.json": b'{"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|im_end|>"}',
        "config.json": b'{"model_type": "llama"}',
    }
    ours = Tokenizer.from_source(FolderSource(tmp_path, files))
    reference = Tokenizer.from_source(MemorySource(byte_level_files()))
    assert ours.eos_token_ids == {2}
    assert ours.bos_token_id == 0  # <|endoftext|>, which GPT2Tokenizer has by itself
    for text in TEXTS[:3]:
        assert ours.encode(text) == reference.encode(text)
        assert ours.decode(ours.encode(text)) == text


def test_converting_without_transformers_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    source = FolderSource(tmp_path, {"tokenizer.model": b""})
    with pytest.raises(
        TokenizerError, match=r"has tokenizer\.model but no tokenizer\.json.*'halfbyte\[transformers\]'"
    ):
        Tokenizer.from_source(source)


def test_what_transformers_cannot_convert(tmp_path: Path) -> None:
    source = FolderSource(tmp_path, {"tokenizer.model": b"not a model", "config.json": b'{"model_type": "llama"}'})
    with pytest.raises(TokenizerError, match=r"memory: transformers cannot convert tokenizer\.model"):
        Tokenizer.from_source(source)


def test_no_tokenizer_names_what_was_looked_for() -> None:
    with pytest.raises(TokenizerError, match=r"memory has no tokenizer: looked for tokenizer\.json, tokenizer\.model"):
        Tokenizer.from_source(MemorySource({"config.json": b"{}"}))
