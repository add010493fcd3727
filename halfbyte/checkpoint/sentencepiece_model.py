"""SentencePiece's tokenizer.model, read without its library.

The file is a protocol-buffers message. Of ModelProto we need field 1, the pieces (1 text, 2 score, 3 type); of field 2,
TrainerSpec, 3 the algorithm and 40, 41, 42, 43 the ids of unk, bos, eos and pad; of field 3, NormalizerSpec, 2 the
character map, 3 add_dummy_prefix and 4 remove_extra_whitespaces.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_BPE = 2
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


def sentencepiece_metadata(model: bytes) -> dict[str, Any] | None:
    """What a tokenizer.model says, in the words of GGUF metadata, which follow SentencePiece's.

    None if it is something else: not SentencePiece (Llama 3 names tiktoken files so), not BPE, or with a normalization
    of its own. Llama and Mistral have none.
    """
    try:
        fields = list(_fields(model))
        pieces = [dict(_fields(value)) for number, value in fields if number == 1]
        trainer, normalizer = (dict(_fields(dict(fields).get(number, b""))) for number in (2, 3))
        tokens = [piece[1].decode() for piece in pieces]
        scores = [struct.unpack("<f", piece.get(2, bytes(4)))[0] for piece in pieces]
    except (ValueError, TypeError, KeyError, AttributeError, struct.error):
        return None
    plain = not normalizer.get(2) and not normalizer.get(4, 1)
    if not tokens or trainer.get(3, 1) != _BPE or not plain:
        return None
    ids = {
        "unknown": trainer.get(40, 0),
        "bos": trainer.get(41, 1),
        "eos": trainer.get(42, 2),
        "padding": trainer.get(43),
    }
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": [piece.get(3, 1) for piece in pieces],
        "tokenizer.ggml.add_space_prefix": bool(normalizer.get(3, 1)),
        **{f"tokenizer.ggml.{name}_token_id": i for name, i in ids.items() if i is not None and i < len(tokens)},
    }


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers and values: an int for a varint, else bytes. Raises ValueError where a message ends early."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind, size = tag & 7, 0
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in (_FOUR_BYTES, _EIGHT_BYTES):
            size = 4 if kind == _FOUR_BYTES else 8
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > len(message):
            raise ValueError("the message ends early")
        yield tag >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number of up to ten bytes, seven bits each, the lowest first; and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("the message ends early")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")
