"""Tokenizers from a repository's files, held to what transformers makes of the same files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from small_tokenizers import CHATML, MemorySource, byte_level_files, sentencepiece_files

from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.errors import TokenizerError

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = [
    "",
    "Hello, world!",
    "  two spaces, then é and 你好 😀\n\n\ttab   ",
    "1234 and 5.6e7",
    "<|im_start|>user\nHi<|im_end|>\n",
    "<tool_call>x</tool_call> <tool> <s> </s>",
    " .leading , spaces ' s n't",
]


def folder_with(files: dict[str, bytes], folder: Path) -> Path:
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


def with_config(files: dict[str, bytes], **changes: Any) -> dict[str, bytes]:
    config = json.loads(files["tokenizer_config.json"]) | changes
    kept = {key: value for key, value in config.items() if value is not None}
    return files | {"tokenizer_config.json": json.dumps(kept).encode()}


VARIANTS: dict[str, dict[str, bytes]] = {
    "byte-level": byte_level_files(),
    "byte-level, cleaned up": byte_level_files(clean_up_tokenization_spaces=True),
    "byte-level, add_bos_token": byte_level_files(add_bos_token=True),
    "new tokens": byte_level_files(
        bos_token={"__type": "AddedToken", "content": "<begin>", "lstrip": True, "rstrip": False, "special": True},
        pad_token="<pad>",
        additional_special_tokens=["<extra>", "<tool_call>"],
        image_token="<image>",
    ),
    "added_tokens_decoder": byte_level_files(
        added_tokens_decoder={
            "600": {"content": "<tool_call>", "special": True, "normalized": False},
            "601": {"content": "<new>", "special": False, "rstrip": True},
        },
        tokenizer_class="PreTrainedTokenizerFast",
    ),
    "special_tokens_map": with_config(byte_level_files(), bos_token=None, eos_token=None)
    | {"special_tokens_map.json": json.dumps({"bos_token": "<|im_start|>", "eos_token": {"content": "<e>"}}).encode()},
    "sentencepiece": sentencepiece_files(),
    "sentencepiece, no prefix": sentencepiece_files(**{"tokenizer.ggml.add_space_prefix": False}),
    "sentencepiece, bos and eos": sentencepiece_files(**{"tokenizer.ggml.add_eos_token": True}),
}
SPECIAL = "<begin> <pad> <extra><image> <new>  x<e>"


@pytest.mark.parametrize("variant", VARIANTS)
def test_as_transformers_does_it(variant: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    files = VARIANTS[variant]
    theirs = AutoTokenizer.from_pretrained(folder_with(files, tmp_path))
    ours = Tokenizer.from_source(MemorySource(files))
    assert ours.vocab_size == len(theirs)
    assert ours.bos_token_id == theirs.bos_token_id
    assert ours.pad_token_id == theirs.pad_token_id
    assert ours.eos_token_ids == {theirs.eos_token_id}
    for text in [*TEXTS, SPECIAL]:
        for special in (True, False):
            ids = ours.encode(text, add_special_tokens=special)
            assert ids == theirs.encode(text, add_special_tokens=special)
            assert ours.decode(ids, skip_special_tokens=special) == theirs.decode(ids, skip_special_tokens=special)


def test_a_real_tokenizer(smollm2_source: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    ours = Tokenizer.from_source(smollm2_source)
    files = {name: smollm2_source.file(name) for name in ("tokenizer.json", "tokenizer_config.json")}
    theirs = AutoTokenizer.from_pretrained(folder_with(files, tmp_path))
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    assert (ours.vocab_size, ours.bos_token_id, ours.eos_token_ids) == (49152, 1, {2})
    assert ours.render_chat(chat) == theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    for text in [*TEXTS, ours.render_chat(chat)]:
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text), skip_special_tokens=False) == text
    assert ours.encode("Hello 12<|im_end|>") == [19556, 216, 33, 34, 2]


def test_every_end_counts() -> None:
    files = byte_level_files() | {"generation_config.json": b'{"eos_token_id": [2, 0]}'}
    tokenizer = Tokenizer.from_source(MemorySource(files, {"eos_token_id": 1, "bos_token_id": 7}))
    assert tokenizer.eos_token_ids == {0, 1, 2}
    assert tokenizer.bos_token_id == 1  # bos_token says so, whatever config.json does


def test_bos_from_the_config_where_the_tokenizer_names_none() -> None:
    files = with_config(byte_level_files(), bos_token=None)
    assert Tokenizer.from_source(MemorySource(files)).bos_token_id is None
    assert Tokenizer.from_source(MemorySource(files, {"bos_token_id": 1})).bos_token_id == 1


def test_named_templates() -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    files = byte_level_files(chat_template=named)
    tokenizer = Tokenizer.from_source(MemorySource(files))
    chat = [{"role": "user", "content": "x"}]
    assert tokenizer.chat_template == "plain"
    assert tokenizer.render_chat(chat) == "plain"
    assert tokenizer.render_chat(chat, tools=[{"type": "function"}]) == "tools"
    without_default = Tokenizer.from_source(MemorySource(byte_level_files(chat_template=named[1:])))
    with pytest.raises(TokenizerError, match="no chat template is the default among tool_use"):
        without_default.render_chat(chat)


def test_where_templates_come_from() -> None:
    files = byte_level_files()
    jinja = files | {"chat_template.jinja": b"from the file", "additional_chat_templates/rag.jinja": b"rag"}
    assert Tokenizer.from_source(MemorySource(files)).chat_template == CHATML
    assert Tokenizer.from_source(MemorySource(jinja)).chat_template == "from the file"
    none = with_config(files, chat_template=None)
    processor = none | {"chat_template.json": b'{"chat_template": "from the processor"}'}
    assert Tokenizer.from_source(MemorySource(processor)).chat_template == "from the processor"
    assert Tokenizer.from_source(MemorySource(none)).chat_template is None
    with pytest.raises(TokenizerError, match="memory has no chat template"):
        Tokenizer.from_source(MemorySource(none)).render_chat([{"role": "user", "content": "x"}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.json": b"{"}, r"memory: tokenizer\.json cannot be used"),
        ({"tokenizer.json": b"\xff\xfe"}, r"memory: tokenizer\.json cannot be used"),
        ({"tokenizer_config.json": b"{,}"}, r"memory: tokenizer_config\.json is not valid JSON"),
        ({"tokenizer_config.json": b"[]"}, r"tokenizer_config\.json holds a list, not a JSON object"),
        (
            {"tokenizer_config.json": b'{"bos_token": {"text": "x"}}'},
            r'bos_token must be a string or an object with "con',
        ),
        ({"tokenizer_config.json": b'{"added_tokens_decoder": {"x": 1}}'}, "added_tokens_decoder must be an object"),
        (
            {"tokenizer_config.json": b'{"added_tokens_decoder": {"9": 1}}'},
            r"added_tokens_decoder\[9\] must be a string",
        ),
        ({"tokenizer_config.json": b'{"additional_special_tokens": 3}'}, "additional_special_tokens must be a list"),
        ({"tokenizer_config.json": b'{"chat_template": [{"name": "a"}]}'}, "chat_template must be a string or a list"),
        ({"chat_template.jinja": b"\xff"}, r"chat_template\.jinja is not UTF-8"),
        ({"generation_config.json": b'{"eos_token_id": "2"}'}, r"generation_config\.json: eos_token_id must be"),
        ({"generation_config.json": b'{"eos_token_id": [true]}'}, r"generation_config\.json: eos_token_id must be"),
    ],
)
def test_files_that_cannot_be_used_are_named(change: dict[str, bytes], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_source(MemorySource(byte_level_files() | change))


def test_what_is_no_text_or_no_token() -> None:
    tokenizer = Tokenizer.from_source(MemorySource(byte_level_files()))
    with pytest.raises(TokenizerError, match="not valid Unicode"):
        tokenizer.encode("half a pair: \ud800")
    with pytest.raises(TokenizerError, match="-5 is not a token id"):
        tokenizer.decode([1, -5])
    assert tokenizer.decode([10**6]) == ""
