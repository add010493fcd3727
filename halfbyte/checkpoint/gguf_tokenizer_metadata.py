"""What a GGUF file says of a tokenizer: the reverse of gguf_tokenizer, from tokenizer files to metadata."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as Backend

from halfbyte.checkpoint.gguf_pre_tokenizers import pre_tokenizer_name
from halfbyte.checkpoint.gguf_source import GGUFSource
from halfbyte.checkpoint.gguf_tokenizer import files_from_metadata
from halfbyte.checkpoint.gguf_vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from halfbyte.checkpoint.sentencepiece_model import sentencepiece_metadata
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.errors import TokenizerError

if TYPE_CHECKING:
    from halfbyte.checkpoint.source import Source

_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
_UNUSED_SCORE = -10000.0  # llama.cpp's, for pieces that merging never makes
_ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_PROBES = (
    "Hello, world! It's 2024's 31st of December: I'll pay $1,234.50 (or 99%).",
    "  leading and   inner    spaces\n\n\tand tabs\r\nand lines\n   \n",
    "def f(x):\n    return x**2 != 3.14159 or [i for i in range(10)]",
    "naïve café, Привет мир, 你好世界, こんにちは, 안녕하세요, مرحبا, 🚀👩‍🚀",
    "'LL we'Re DON'T 1000000 a1b2c3 ...!!! <tag> http://example.org/?q=a+b&c=d",
)


def tokenizer_metadata(source: Source, vocab_size: int) -> dict[str, Any]:
    """The `tokenizer.` keys for a model whose embedding has `vocab_size` rows.

    A GGUF source's own are handed on as they are. Others are made from the tokenizer's files, and what they make is
    held against the tokenizer itself on some texts. Raises TokenizerError for a kind that GGUF has no name for, or a
    vocabulary larger than the embedding.
    """
    if isinstance(source, GGUFSource):
        own = {key: value for key, value in source.metadata.items() if key.startswith("tokenizer.")}
        count = len(own.get("tokenizer.ggml.tokens", []))
        if count != vocab_size:
            raise TokenizerError(f"{source.spec}: {count} tokens, but the embedding has {vocab_size} rows")
        return own
    tokenizer = Tokenizer.from_source(source)
    state = json.loads(tokenizer.backend.to_str())
    made = _vocabulary(source, state, vocab_size) | _settings(tokenizer)
    _check_same(source.spec, tokenizer, made)
    return made


def _vocabulary(source: Source, state: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    where = f"{source.spec}: tokenizer.json"
    model = state.get("model") or {}
    if model.get("type") != "BPE":
        raise TokenizerError(f"{where}: its model is {model.get('type')}; only BPE can be written to GGUF")
    tokens: list[str] = [f"[PAD{i}]" for i in range(vocab_size)]
    types = [UNUSED] * vocab_size
    added = {token["id"]: token for token in state.get("added_tokens", [])}
    entries = {i: text for text, i in model["vocab"].items()} | {i: token["content"] for i, token in added.items()}
    if entries and max(entries) >= vocab_size:
        beyond = max(entries)
        raise TokenizerError(
            f"{where}: {entries[beyond]!r:.60} is token {beyond}, but the embedding has {vocab_size} rows; "
            "the tokenizer is not this model's"
        )
    byte_fallback = bool(model.get("byte_fallback"))
    for i, text in entries.items():
        tokens[i], types[i] = text, NORMAL
        if i in added:
            types[i] = CONTROL if added[i]["special"] else USER_DEFINED
        elif byte_fallback and _BYTE_PIECE.fullmatch(text):
            types[i] = BYTE
    common = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges", [])]
    if _is_byte_level(state):
        pre = pre_tokenizer_name(state)
        if pre is None:
            raise TokenizerError(
                f"{where}: GGUF has no name for its pre-tokenizer {json.dumps(state.get('pre_tokenizer'))[:300]}"
            )
        return {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": pre,
            **common,
            "tokenizer.ggml.merges": merges,
        }
    if not byte_fallback:
        raise TokenizerError(f"{where}: a BPE that is neither byte-level nor SentencePiece's has no place in GGUF")
    unknown = model.get("unk_token")
    for i, text in entries.items():
        if text == unknown:
            types[i] = UNKNOWN
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        **common,
        "tokenizer.ggml.scores": _scores(source, tokens, types, merges),
        "tokenizer.ggml.add_space_prefix": _adds_space(state),
    }


def _is_byte_level(state: dict[str, Any]) -> bool:
    return '"ByteLevel"' in json.dumps(state.get("pre_tokenizer"))


def _adds_space(state: dict[str, Any]) -> bool:
    text = json.dumps([state.get("normalizer"), state.get("pre_tokenizer")], ensure_ascii=False)
    return '"Prepend"' in text or ('"Metaspace"' in text and '"never"' not in text)


def _scores(source: Source, tokens: list[str], types: list[int], merges: list[str]) -> list[float]:
    """SentencePiece's own where tokenizer.model is there; else minus the rank of the merge that makes a piece.

    llama.cpp joins the two neighbours whose piece has the best score, which is then the merge of the lowest rank.
    """
    model = source.file("tokenizer.model")
    given = None if model is None else sentencepiece_metadata(model)
    if given is not None and given["tokenizer.ggml.tokens"] == tokens[: len(given["tokenizer.ggml.tokens"])]:
        scores = [float(score) for score in given["tokenizer.ggml.scores"]]
        return scores + [_UNUSED_SCORE] * (len(tokens) - len(scores))
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        left, _, right = merge.partition(" ")
        ranks.setdefault(left + right, rank)
    lowest = -float(len(merges) + 1)
    return [
        -float(ranks[text]) if text in ranks else lowest if kind == NORMAL else 0.0
        for text, kind in zip(tokens, types, strict=True)
    ]


def _settings(tokenizer: Tokenizer) -> dict[str, Any]:
    ids = {role: tokenizer.backend.token_to_id(text) for role, text in tokenizer.special_tokens.items()}
    made: dict[str, Any] = {
        f"tokenizer.ggml.{name}_token_id": ids[role] for role, name in _ROLES.items() if ids.get(role) is not None
    }
    if "tokenizer.ggml.bos_token_id" not in made and tokenizer.bos_token_id is not None:
        made["tokenizer.ggml.bos_token_id"] = tokenizer.bos_token_id
    ends = sorted(tokenizer.eos_token_ids - {made.get("tokenizer.ggml.eos_token_id")})
    if ends and "tokenizer.ggml.eos_token_id" not in made:
        made["tokenizer.ggml.eos_token_id"] = ends.pop(0)
    for name, end in zip(("eot", "eom"), ends, strict=False):
        made[f"tokenizer.ggml.{name}_token_id"] = end
    around = tokenizer.encode("")
    made["tokenizer.ggml.add_bos_token"] = tokenizer.adds_bos
    made["tokenizer.ggml.add_eos_token"] = bool(around) and around[-1] == made.get("tokenizer.ggml.eos_token_id")
    for name, template in tokenizer.chat_templates.items():
        made["tokenizer.chat_template" + ("" if name == "default" else f".{name}")] = template
    return made


def _check_same(spec: str, tokenizer: Tokenizer, metadata: dict[str, Any]) -> None:
    """Raise TokenizerError if what the metadata means cuts a text otherwise than the tokenizer does."""
    again = Backend.from_str(files_from_metadata(metadata)["tokenizer.json"].decode())
    for text in _PROBES:
        ours, theirs = again.encode(text).ids, tokenizer.encode(text)
        if ours != theirs:
            i = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), -1)
            legacy = '; without "legacy": false in tokenizer_config.json spaces are cut as llama.cpp cuts them'
            raise TokenizerError(
                f"{spec}: its tokenizer does what GGUF cannot say: {text[:40]!r} gives other tokens from position {i}"
                + (legacy if text.startswith(" ") and "tokenizer.ggml.scores" in metadata else "")
            )
