"""Tokenizers from GGUF metadata."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING, Any

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import TEXT, MemorySource, byte_level_files, sentencepiece_files, sentencepiece_metadata

from halfbyte.checkpoint.gguf_tokenizer import files_from_metadata, sentencepiece_merges, tokenizer_files
from halfbyte.checkpoint.gguf_vocabulary import GGUFVocabulary
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.errors import TokenizerError

if TYPE_CHECKING:
    from pathlib import Path

BYTE_LEVEL = json.loads(byte_level_files()["tokenizer.json"])


SENTENCEPIECE = sentencepiece_metadata()


def byte_level_metadata(pre: str | None = "gpt-2", **changes: Any) -> dict[str, Any]:
    tokens = sorted(BYTE_LEVEL["model"]["vocab"], key=BYTE_LEVEL["model"]["vocab"].get)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*tokens, "<tool_call>"],
        "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(tokens) - 3) + [4],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in BYTE_LEVEL["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        **changes,
    }


def tokenizer(metadata: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_source(MemorySource(files_from_metadata(metadata)))


@cache
def small_sentencepiece() -> Tokenizer:
    return tokenizer(SENTENCEPIECE)


def words(pre: str, text: str) -> list[str]:
    """A text cut into words, before any merging."""
    backend = tokenizer(byte_level_metadata(pre)).backend
    if backend.normalizer:
        text = backend.normalizer.normalize_str(text)
    return [text[start:end] for _, (start, end) in backend.pre_tokenizer.pre_tokenize_str(text)]


def sentencepiece_by_the_book(text: str) -> list[int]:
    """SentencePiece's own way: join the neighbours whose joined piece scores best, the leftmost first."""
    metadata = SENTENCEPIECE
    tokens, scores, kinds = (metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type"))
    ids = {token: i for i, token in enumerate(tokens) if kinds[i] == 1}
    pieces = list("▁" + text.replace(" ", "▁")) if text else []
    while True:
        joined = [(-scores[ids[a + b]], i) for i, (a, b) in enumerate(pairwise(pieces)) if a + b in ids]
        if not joined:
            break
        _, at = min(joined)
        pieces[at : at + 2] = ["".join(pieces[at : at + 2])]
    return [i for piece in pieces for i in ([ids[piece]] if piece in ids else [3 + byte for byte in piece.encode()])]


def test_smollm2_cuts_and_joins_as_llama_cpp_does(smollm2_source: Any) -> None:
    ours = Tokenizer.from_source(smollm2_source)
    # printed by llama.cpp's tokenizer for the same file
    expected = {
        "Hello, world! 12345": [19556, 28, 905, 17, 216, 33, 34, 35, 36, 37],
        "  \n\n\tdef f(x):": [256, 1116, 197, 1604, 275, 24, 104, 727],
        "<|im_start|>user\nHi<|im_end|>": [1, 4093, 198, 26843, 2],
        "naïve café 你好 😀": [3546, 46494, 37366, 216, 18645, 250, 48392, 138, 40303, 218],
    }
    for text, ids in expected.items():
        assert ours.encode(text) == ids
        assert ours.decode(ids, skip_special_tokens=False) == text


def test_a_reader_gives_the_same_as_the_metadata(tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    metadata = sentencepiece_metadata()
    for key, value in metadata.items():
        add = {str: writer.add_string, int: writer.add_uint32, list: writer.add_array}[type(value)]
        add(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert tokenizer_files(gguf.GGUFReader(path)) == files_from_metadata(metadata)


def test_byte_level_as_the_tokenizer_it_was_made_from() -> None:
    reference = Tokenizer.from_source(MemorySource(byte_level_files()))
    ours = tokenizer(byte_level_metadata())
    for text in [*TEXT, "<|im_start|>x<tool_call> 你好<|im_end|>"]:
        assert ours.encode(text) == reference.encode(text)
        assert ours.decode(ours.encode(text)) == reference.decode(reference.encode(text))
    assert (ours.bos_token_id, ours.eos_token_ids, ours.pad_token_id) == (1, {2}, 0)


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("gpt-2", "I'm 1234\n\n  x²", ["I", "'m", " 1234", "\n\n ", " x", "²"]),
        ("smollm", "I'm 1234  x", ["I", "'m", " ", "1", "2", "3", "4", " ", " x"]),
        ("starcoder", " 12", [" ", "1", "2"]),
        ("llama-bpe", "I'M 12345(x)\n\n y", ["I", "'M", " ", "123", "45", "(x", ")\n\n", " y"]),
        ("qwen2", "I'M 123 cafe\u0301", ["I", "'M", " ", "1", "2", "3", " café"]),
        ("tekken", "XMLHttp 12a/b\n", ["XMLHttp", " ", "1", "2", "a", "/b", "\n"]),
        ("deepseek-coder", "if x1:\n\ty", ["if", " x", "1", ":", "\n", "\ty"]),
        ("default", "a+=12345", ["a", "+=", "123", "45"]),
    ],
)
def test_words_of_each_pre_tokenizer(pre: str, text: str, expected: list[str]) -> None:
    assert words(pre, text) == expected


def test_a_whole_word_is_taken_where_merges_are_ignored() -> None:
    metadata = byte_level_metadata("llama-bpe")
    metadata["tokenizer.ggml.tokens"][-2] = "zqzq"  # which no merge makes
    metadata["tokenizer.ggml.merges"] = metadata["tokenizer.ggml.merges"][:50]
    assert tokenizer(metadata).encode("zqzq", add_special_tokens=False) == [len(metadata["tokenizer.ggml.tokens"]) - 2]


@pytest.mark.parametrize(
    ("pre", "flag", "starts_with_bos"),
    [("llama-bpe", None, True), ("llama-bpe", False, False), ("smollm", None, False), ("smollm", True, True)],
)
def test_bos_where_the_file_says_so_or_its_kind_does(pre: str, flag: bool | None, starts_with_bos: bool) -> None:
    ours = tokenizer(byte_level_metadata(pre, **{"tokenizer.ggml.add_bos_token": flag}))
    assert (ours.encode("a")[0] == 1) is starts_with_bos
    assert ours.encode("a", add_special_tokens=False)[0] != 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["the", " ", "e", "in", "list", "1", "\n", "é", "你", "😀"]), max_size=20))
def test_sentencepiece_by_scores(parts: list[str]) -> None:
    text = "".join(parts)
    ours = small_sentencepiece()
    assert ours.encode(text, add_special_tokens=False) == sentencepiece_by_the_book(text)


def test_sentencepiece_around_a_text() -> None:
    ours = Tokenizer.from_source(MemorySource(sentencepiece_files()))
    ids = ours.encode("  the 你<tool> x")
    assert ids[0] == 1
    assert (
        ours.decode(ids) == "  the 你<tool>  x"
    )  # what follows an added token gets its own space, as in SentencePiece
    plain = Tokenizer.from_source(MemorySource(sentencepiece_files(**{"tokenizer.ggml.add_space_prefix": False})))
    assert plain.decode(plain.encode("  the<tool> x")) == "  the<tool> x"
    ends = Tokenizer.from_source(MemorySource(sentencepiece_files(**{"tokenizer.ggml.add_eos_token": True})))
    assert ends.encode("x")[-1] == 2


def test_merges_of_a_large_vocabulary_are_quick(smollm2_source: Any) -> None:
    vocabulary = json.loads(smollm2_source.file("tokenizer.json"))["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.get)
    scores = [-float(i) for i in range(len(tokens))]
    start = perf_counter()
    merges = sentencepiece_merges(GGUFVocabulary(tokens, [1] * len(tokens), scores, [], {}))
    assert perf_counter() - start < 3
    assert len(merges) > len(tokens)


def test_templates_by_name() -> None:
    files = files_from_metadata(
        byte_level_metadata(**{"tokenizer.chat_template": "d", "tokenizer.chat_template.tool_use": "t"})
    )
    templates = json.loads(files["tokenizer_config.json"])["chat_template"]
    assert templates == [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]


def test_ends_of_turns_are_ends() -> None:
    files = files_from_metadata(byte_level_metadata(**{"tokenizer.ggml.eot_token_id": 0}))
    assert json.loads(files["generation_config.json"])["eos_token_id"] == [2, 0]
    assert Tokenizer.from_source(MemorySource(files)).eos_token_ids == {0, 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": None}, "tokenizer.ggml.model is None; supported are gpt2, llama"),
        ({"model": "t5"}, "tokenizer.ggml.model is 't5'"),
        ({"model": ["gpt2"]}, "tokenizer.ggml.model is .* not a str"),
        ({"pre": "unheard-of"}, "pre-tokenizer 'unheard-of' .* supported are .*llama-bpe.*smollm"),
        ({"tokens": None}, "tokenizer.ggml.tokens is missing"),
        ({"tokens": []}, "tokenizer.ggml.tokens is missing or empty"),
        ({"tokens": "abc"}, "tokenizer.ggml.tokens is 'abc', not a list"),
        ({"tokens": ["a", 1]}, r"tokenizer.ggml.tokens\[1\] is 1, not a str"),
        ({"tokens": ["a", "b", "a"]}, "'a' is both token 0 and 2"),
        ({"token_type": [1, 1]}, "tokenizer.ggml.token_type has 2 entries for 601 tokens"),
        ({"merges": None}, "tokenizer.ggml.merges is missing"),
        ({"merges": ["ab"]}, r"merges\[0\] is 'ab': it has no space"),
        ({"merges": ["e r", "e 🤷"]}, r"tokenizer.ggml.merges\[1\] is 'e 🤷': '🤷' is not in the vocabulary"),
        ({"eos_token_id": 601}, "eos_token_id is 601, but the vocabulary has 601 tokens"),
        ({"eos_token_id": -1}, "eos_token_id is -1"),
        ({"bos_token_id": "1"}, "bos_token_id is '1', not a int"),
        ({"add_bos_token": 1}, "add_bos_token is 1, not a bool"),
        ({"model": "llama"}, r"tokenizer.ggml.scores is missing|merges"),
        ({"scores": [0.0]}, "scores has 1 entries for 601 tokens"),
        ({"scores": [float("nan")] * 601}, r"scores\[0\] is nan"),
    ],
)
def test_metadata_that_cannot_be_used_is_named(change: dict[str, Any], message: str) -> None:
    metadata = byte_level_metadata(**{f"tokenizer.ggml.{key}": value for key, value in change.items()})
    if change == {"model": "llama"}:
        metadata["tokenizer.ggml.merges"] = None
    with pytest.raises(TokenizerError, match=message):
        files_from_metadata(metadata)
