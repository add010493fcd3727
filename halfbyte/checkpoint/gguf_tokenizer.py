"""tokenizer.json and tokenizer_config.json made from what a GGUF file says of its tokenizer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from halfbyte.checkpoint.gguf_pre_tokenizers import pre_tokenizer
from halfbyte.checkpoint.gguf_vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    GGUFVocabulary,
    entry,
)
from halfbyte.errors import TokenizerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import gguf

SPACE = "▁"  # SentencePiece's sign for a space
_NAMED_TEMPLATE = "tokenizer.chat_template."
_LONGEST_PIECE = 1024  # characters; looking for the ways to cut a piece takes time by the square of its length
_OTHER_ENDS = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")  # end of a turn, of a message


def tokenizer_files(reader: gguf.GGUFReader) -> dict[str, bytes]:
    """The tokenizer files of a Hugging Face folder, by name. Raises TokenizerError naming the metadata entry at fault.

    Byte-level BPE (model "gpt2") and SentencePiece BPE ("llama") are supported. There is a generation_config.json only
    where the file names more ends than its EOS token.
    """
    return files_from_metadata({key: _contents(reader, key) for key in reader.fields if key.startswith("tokenizer.")})


def files_from_metadata(metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """The same from metadata in Python values and numpy arrays."""
    makers = {"gpt2": _byte_level_bpe, "llama": _sentencepiece_bpe}
    model = entry(metadata, "tokenizer.ggml.model", str, None)
    if model not in makers:
        raise TokenizerError(f"tokenizer.ggml.model is {model!r:.60}; supported are {', '.join(sorted(makers))}")
    vocabulary = GGUFVocabulary.from_metadata(metadata)
    parts, add_bos = makers[model](metadata, vocabulary)
    add_bos = entry(metadata, "tokenizer.ggml.add_bos_token", bool, add_bos) and "bos_token" in vocabulary.roles
    add_eos = entry(metadata, "tokenizer.ggml.add_eos_token", bool, False) and "eos_token" in vocabulary.roles
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, **_added_token(vocabulary, i)} for i in _added_ids(vocabulary)],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": _post_processor(vocabulary, add_bos=add_bos, add_eos=add_eos),
        **parts,
    }
    config: dict[str, Any] = {
        "add_bos_token": add_bos,
        "add_eos_token": add_eos,
        "added_tokens_decoder": {str(i): _added_token(vocabulary, i) for i in _added_ids(vocabulary)},
        **{str(role): vocabulary.tokens[i] for role, i in vocabulary.roles.items()},
        **_chat_template(metadata),
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    files: dict[str, dict[str, Any]] = {"tokenizer.json": tokenizer, "tokenizer_config.json": config}
    files |= _generation_config(metadata, vocabulary)
    return {name: json.dumps(value, ensure_ascii=False, indent=2).encode() for name, value in files.items()}


def sentencepiece_merges(vocabulary: GGUFVocabulary) -> list[tuple[str, str]]:
    """The merges that a SentencePiece BPE vocabulary implies, in their order.

    SentencePiece joins the two neighbours whose joined piece has the best score. As ranked merges that is every way to
    cut a piece into two pieces, by falling score. Only normal pieces take part: the others never come from merging.
    Raises TokenizerError for a piece that is longer than any model's.
    """
    scores = {vocabulary.tokens[i]: vocabulary.scores[i] for i in vocabulary.ids(NORMAL)}
    ids = {token: i for i, token in enumerate(vocabulary.tokens)}
    merges = []
    for piece, score in scores.items():
        if len(piece) > _LONGEST_PIECE:
            raise TokenizerError(
                f"tokenizer.ggml.tokens[{ids[piece]}] has {len(piece)} characters; a SentencePiece vocabulary without "
                f"merges may have pieces of {_LONGEST_PIECE}"
            )
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                merges.append((-score, -cut, ids[left], left, right))
    merges.sort()
    return [(left, right) for *_, left, right in merges]


def _byte_level_bpe(metadata: Mapping[str, Any], vocabulary: GGUFVocabulary) -> tuple[dict[str, Any], bool]:
    """The parts of tokenizer.json that differ between models, and whether a text starts with BOS by default."""
    pre = pre_tokenizer(entry(metadata, "tokenizer.ggml.pre", str, "default"))
    if not vocabulary.merges:
        raise TokenizerError("tokenizer.ggml.merges is missing: a byte-level BPE tokenizer needs its merges")
    parts = {
        "normalizer": pre.normalizer,
        "pre_tokenizer": pre.to_json(),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": _bpe(vocabulary, vocabulary.merges, ignore_merges=pre.ignore_merges),
    }
    return parts, pre.add_bos


def _sentencepiece_bpe(metadata: Mapping[str, Any], vocabulary: GGUFVocabulary) -> tuple[dict[str, Any], bool]:
    if not (vocabulary.scores or vocabulary.merges):
        raise TokenizerError("tokenizer.ggml.scores is missing: a SentencePiece tokenizer needs scores or merges")
    prefix = entry(metadata, "tokenizer.ggml.add_space_prefix", bool, True)
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = {"type": "Prepend", "prepend": SPACE}
    byte_fallback = bool(vocabulary.ids(BYTE))
    unknown = vocabulary.roles.get("unk_token", next(iter(vocabulary.ids(UNKNOWN)), None))
    decoders = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    parts = {
        "normalizer": {"type": "Sequence", "normalizers": [prepend, spaces]} if prefix else spaces,
        "decoder": {"type": "Sequence", "decoders": decoders if prefix else decoders[:-1]},
        "model": _bpe(
            vocabulary,
            vocabulary.merges or sentencepiece_merges(vocabulary),
            unk_token=None if unknown is None else vocabulary.tokens[unknown],
            fuse_unk=True,
            byte_fallback=byte_fallback,
        ),
    }
    return parts, True


def _bpe(vocabulary: GGUFVocabulary, merges: list[tuple[str, str]], **settings: Any) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **settings,
        "vocab": {token: i for i, token in enumerate(vocabulary.tokens)},
        "merges": merges,
    }


def _added_ids(vocabulary: GGUFVocabulary) -> list[int]:
    """Tokens that are found in a text before anything else: control tokens, user-defined ones and those with a role."""
    return sorted({*vocabulary.ids(CONTROL, USER_DEFINED, UNKNOWN), *vocabulary.roles.values()})


def _added_token(vocabulary: GGUFVocabulary, token: int) -> dict[str, Any]:
    special = vocabulary.types[token] != USER_DEFINED or token in vocabulary.roles.values()
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"content": vocabulary.tokens[token], **flags, "special": special}


def _post_processor(vocabulary: GGUFVocabulary, *, add_bos: bool, add_eos: bool) -> dict[str, Any] | None:
    """What puts BOS before and EOS after a text, or after each of a pair."""
    if not (add_bos or add_eos):
        return None
    before = [vocabulary.roles["bos_token"]] if add_bos else []
    after = [vocabulary.roles["eos_token"]] if add_eos else []

    def template(sequence: str, type_id: int) -> list[dict[str, Any]]:
        special = [
            [{"SpecialToken": {"id": vocabulary.tokens[i], "type_id": type_id}} for i in ids] for ids in (before, after)
        ]
        return [*special[0], {"Sequence": {"id": sequence, "type_id": type_id}}, *special[1]]

    special_tokens = {
        vocabulary.tokens[i]: {"id": vocabulary.tokens[i], "ids": [i], "tokens": [vocabulary.tokens[i]]}
        for i in before + after
    }
    return {
        "type": "TemplateProcessing",
        "single": template("A", 0),
        "pair": template("A", 0) + template("B", 1),
        "special_tokens": special_tokens,
    }


def _chat_template(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The `chat_template` entry of tokenizer_config.json: a string, or a list if there are named templates."""
    default = entry(metadata, "tokenizer.chat_template", str, None)
    templates: dict[str, str] = {} if default is None else {"default": default}
    for key in metadata:
        if key.startswith(_NAMED_TEMPLATE):
            templates[key.removeprefix(_NAMED_TEMPLATE)] = entry(metadata, key, str, "")
    if len(templates) == (default is not None):
        return {"chat_template": default} if templates else {}
    return {"chat_template": [{"name": name, "template": text} for name, text in templates.items()]}


def _generation_config(metadata: Mapping[str, Any], vocabulary: GGUFVocabulary) -> dict[str, Any]:
    given = {entry(metadata, key, int, None) for key in _OTHER_ENDS} - {None, vocabulary.roles.get("eos_token")}
    others = sorted(i for i in given if 0 <= i < len(vocabulary.tokens))
    if not others or "eos_token" not in vocabulary.roles:
        return {}
    ids = {f"{role}_id": i for role, i in vocabulary.roles.items() if role in ("bos_token", "pad_token")}
    return {"generation_config.json": {**ids, "eos_token_id": [vocabulary.roles["eos_token"], *others]}}


def _contents(reader: gguf.GGUFReader, key: str) -> Any:
    try:
        return reader.fields[key].contents()
    except (ValueError, IndexError, TypeError, KeyError) as error:
        raise TokenizerError(f"{key} cannot be read: {error}") from error
