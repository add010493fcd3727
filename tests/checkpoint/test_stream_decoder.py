"""A stream's text is the text of all its tokens, in pieces that come as soon as they are certain."""

from __future__ import annotations

import json
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import MemorySource, byte_level_files, sentencepiece_files
from tokenizers import Tokenizer as Backend
from tokenizers import decoders
from tokenizers.models import BPE

from halfbyte.checkpoint.stream_decoder import REPLACEMENT, stream_kind
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.errors import TokenizerError

MAKERS = {
    "bytes": byte_level_files,
    "pieces and bytes": sentencepiece_files,
    "no prefix": lambda: sentencepiece_files(**{"tokenizer.ggml.add_space_prefix": False}),
}


@cache
def made(kind: str) -> Tokenizer:
    return Tokenizer.from_source(MemorySource(MAKERS[kind]()))


def parts(tokenizer: Tokenizer, ids: list[int], *, skip_special_tokens: bool = True) -> list[str]:
    stream = tokenizer.stream(skip_special_tokens=skip_special_tokens)
    return [stream.push(token) for token in ids] + [stream.flush()]


def byte_ids(data: bytes) -> list[int]:
    """A byte token each, in the SentencePiece vocabulary."""
    return [3 + byte for byte in data]


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_any_ids_stream_to_what_they_decode_to(kind: str, data: st.DataObject, skip: bool) -> None:
    tokenizer = made(kind)
    few = st.integers(0, 262)  # special tokens and bytes, and ids that end characters
    ids = data.draw(st.lists(st.one_of(few, st.integers(0, tokenizer.vocab_size + 3)), max_size=40))
    streamed = "".join(parts(tokenizer, ids, skip_special_tokens=skip))
    assert streamed == tokenizer.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=150, deadline=None)
@given(
    text=st.text(alphabet=st.one_of(st.sampled_from(" a\n▁é你😀👍🏽\u0301"), st.characters(codec="utf-8")), max_size=30)
)
def test_any_text_streams_whole(kind: str, text: str) -> None:
    tokenizer = made(kind)
    ids = tokenizer.encode(text)
    pieces = parts(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    if REPLACEMENT not in text:
        assert not any(REPLACEMENT in piece for piece in pieces)


def test_characters_come_whole_from_byte_level_tokens() -> None:
    tokenizer = made("bytes")
    ids = tokenizer.encode("a😀b")
    assert len(ids) == 6
    assert parts(tokenizer, ids) == ["a", "", "", "", "😀", "b", ""]


def test_characters_come_whole_from_byte_fallback() -> None:
    tokenizer = made("pieces and bytes")
    a = tokenizer.backend.token_to_id("a")
    assert parts(tokenizer, [*byte_ids("你".encode()), a]) == ["", "", "", "你a", ""]
    assert parts(tokenizer, byte_ids("你".encode())) == ["", "", "", "你"]


def test_only_the_first_space_is_dropped() -> None:
    tokenizer = made("pieces and bytes")
    space = tokenizer.backend.token_to_id("▁")
    a = tokenizer.backend.token_to_id("a")
    assert parts(tokenizer, [1, space, a, space, 1, space, a]) == ["", "", "a", " ", "", " ", "a", ""]


def test_invalid_bytes_do_not_hold_the_stream() -> None:
    byte_level = made("bytes")
    byte_ff = byte_level.backend.token_to_id("ÿ")
    stream = byte_level.stream()
    assert "".join(stream.push(byte_ff) for _ in range(6)) == REPLACEMENT * 6
    stream = made("pieces and bytes").stream()
    assert "".join(stream.push(token) for token in byte_ids(b"\xe4\xbd\xff\xff\xff\xff")) == REPLACEMENT * 6
    assert stream.flush() == ""


def test_a_token_that_is_no_number_of_a_token() -> None:
    with pytest.raises(TokenizerError, match="-1 is not a token id"):
        made("bytes").stream().push(-1)


def backend_with(decoder: decoders.Decoder | None) -> Backend:
    backend = Backend(BPE(vocab={"a": 0, "▁b": 1, "##c": 2, "d</w>": 3}, merges=[]))
    if decoder is not None:
        backend.decoder = decoder
    return backend


@pytest.mark.parametrize(
    ("decoder", "kind"),
    [
        (None, "pieces"),
        (decoders.ByteLevel(), "bytes"),
        (decoders.Metaspace(), "pieces"),
        (decoders.WordPiece(), "pieces"),
        (decoders.BPEDecoder(), "held"),
        (decoders.Sequence([decoders.Fuse(), decoders.ByteFallback()]), "held"),
        (decoders.Sequence([decoders.Replace("ab", "c")]), "held"),
        (decoders.Strip(" ", 0, 1), "held"),
    ],
)
def test_every_decoder_has_an_exact_stream(decoder: decoders.Decoder | None, kind: str) -> None:
    backend = backend_with(decoder)
    assert stream_kind(backend) == kind
    tokenizer = Tokenizer.from_source(MemorySource({"tokenizer.json": backend.to_str().encode()}))
    for ids in ([1, 1, 0, 2, 3, 1], [2, 3], [3, 3, 0], []):
        assert "".join(parts(tokenizer, ids)) == tokenizer.decode(ids)


def test_the_stream_of_a_tokenizer_that_cleans_spaces_up() -> None:
    state = json.loads(backend_with(decoders.WordPiece(cleanup=False)).to_str())
    state["model"] = {"type": "WordLevel", "vocab": {"do": 0, "n't": 1, ".": 2}, "unk_token": "do"}
    files = {
        "tokenizer.json": json.dumps(state).encode(),
        "tokenizer_config.json": b'{"clean_up_tokenization_spaces": true}',
    }
    tokenizer = Tokenizer.from_source(MemorySource(files))
    assert tokenizer.decode([0, 1, 2]) == "don't."
    assert "".join(parts(tokenizer, [0, 1, 2])) == "don't."
