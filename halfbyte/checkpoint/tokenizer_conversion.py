"""A tokenizer for repositories that have older files instead of tokenizer.json."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from halfbyte.checkpoint.gguf_tokenizer import SPACE, files_from_metadata
from halfbyte.checkpoint.sentencepiece_model import sentencepiece_metadata
from halfbyte.checkpoint.tokenizer_config import json_file
from halfbyte.errors import TokenizerError

if TYPE_CHECKING:
    from halfbyte.checkpoint.source import Source

# Tokenizer files of other kinds, the most telling first.
_CONVERTIBLE = ("tokenizer.model", "vocab.json", "tekken.json", "tiktoken.model", "spiece.model", "vocab.txt")
_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")


def load_backend(data: bytes, where: str) -> Backend:
    """A tokenizers.Tokenizer from the bytes of a tokenizer.json. Raises TokenizerError starting with `where`."""
    try:
        return Backend.from_str(data.decode())
    except BaseException as error:  # a panic in the Rust library is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{where} cannot be used: {error}") from error


def convert(source: Source) -> tuple[Backend, dict[str, AddedToken]]:
    """What tokenizer.json would hold, and the special tokens that the older files name by role.

    SentencePiece BPE models we read ourselves, because transformers 5 cuts runs of spaces differently from
    SentencePiece; the rest transformers converts.
    """
    model = source.file("tokenizer.model")
    metadata = None if model is None else sentencepiece_metadata(model)
    if metadata is None:
        return _convert_by_transformers(source)
    settings = json_file(source, "tokenizer_config.json")
    metadata |= {
        "tokenizer.ggml.add_bos_token": settings.get("add_bos_token", True) is not False,
        "tokenizer.ggml.add_eos_token": settings.get("add_eos_token", False) is True,
    }
    if settings.get("add_prefix_space") is False:
        metadata["tokenizer.ggml.add_space_prefix"] = False
    try:
        files = files_from_metadata(metadata)
    except TokenizerError as error:
        raise TokenizerError(f"{source.spec}: tokenizer.model: {error}") from error
    state, config = json.loads(files["tokenizer.json"]), json.loads(files["tokenizer_config.json"])
    if settings.get("legacy") is False and metadata["tokenizer.ggml.add_space_prefix"]:
        # only the start of a text gets the extra space, not what follows a special token
        metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}
        state |= {"normalizer": None, "pre_tokenizer": metaspace}
    roles = {role: AddedToken(config[role], special=True) for role in _ROLES if role in config}
    return load_backend(json.dumps(state).encode(), f"{source.spec}: tokenizer.model"), roles


def _convert_by_transformers(source: Source) -> tuple[Backend, dict[str, AddedToken]]:
    present = [name for name in _CONVERTIBLE if name in source.files()]
    if not present or source.folder is None:
        looked_for = ", ".join(("tokenizer.json", *_CONVERTIBLE))
        raise TokenizerError(f"{source.spec} has no tokenizer: looked for {looked_for}")
    try:
        from transformers import AutoTokenizer  # noqa: PLC0415 (optional, and slow to import)
    except ImportError as error:
        raise TokenizerError(
            f"{source.spec} has {present[0]} but no tokenizer.json; converting it needs transformers: "
            "pip install 'halfbyte[transformers]'"
        ) from error
    try:
        made = AutoTokenizer.from_pretrained(source.folder, local_files_only=True, trust_remote_code=False)
        backend, special = made.backend_tokenizer, made.special_tokens_map
    except Exception as error:  # whatever a foreign loader raises
        raise TokenizerError(f"{source.spec}: transformers cannot convert {present[0]}: {error}") from error
    assert isinstance(backend, Backend)
    roles = {role: text for role, text in special.items() if isinstance(text, str)}
    return backend, {role: AddedToken(text, special=True) for role, text in roles.items()}
