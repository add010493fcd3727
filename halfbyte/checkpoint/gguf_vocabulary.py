"""The vocabulary in a GGUF file's metadata, checked: what follows can rely on every number and string in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from halfbyte.errors import TokenizerError

if TYPE_CHECKING:
    from collections.abc import Mapping

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # llama.cpp's token types

_KINDS: dict[type, str] = {int: "iu", float: "f"}  # numpy's kinds of number

Role = Literal["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "mask_token", "cls_token"]
_ROLE_KEYS: dict[Role, str] = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
    "sep_token": "seperator_token_id",  # spelled so in the files
    "mask_token": "mask_token_id",
    "cls_token": "cls_token_id",
}


@dataclass(frozen=True, slots=True)
class GGUFVocabulary:
    """Tokens by id, with their types and, where the file has them, scores and merges."""

    tokens: list[str]
    types: list[int]
    scores: list[float]  # empty if the file has none
    merges: list[tuple[str, str]]  # likewise
    roles: dict[Role, int]

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> GGUFVocabulary:
        """Read the `tokenizer.ggml.` entries. Raises TokenizerError naming the entry that cannot be used."""
        tokens = _array(metadata, "tokens", str)
        if not tokens:
            raise TokenizerError("tokenizer.ggml.tokens is missing or empty: the file holds no tokenizer")
        ids = {token: i for i, token in enumerate(tokens)}
        if len(ids) != len(tokens):
            twice = next(i for i, token in enumerate(tokens) if ids[token] != i)
            raise TokenizerError(
                f"tokenizer.ggml.tokens: {tokens[twice]!r:.60} is both token {twice} and {ids[tokens[twice]]}"
            )
        types = _array(metadata, "token_type", int) or [NORMAL] * len(tokens)
        scores = _array(metadata, "scores", float)
        for name, values in (("token_type", types), ("scores", scores or tokens)):
            if len(values) != len(tokens):
                raise TokenizerError(f"tokenizer.ggml.{name} has {len(values)} entries for {len(tokens)} tokens")
        return cls(tokens, types, scores, _merges(metadata, ids), _roles(metadata, len(tokens)))

    def ids(self, *types: int) -> list[int]:
        """Ids of the tokens of some types."""
        return [i for i, kind in enumerate(self.types) if kind in types]


def entry(metadata: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    """A metadata entry of a type. Raises TokenizerError if it is of another."""
    value = metadata.get(key)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TokenizerError(f"{key} is {value!r:.60}, not a {kind.__name__}")
    return value


def _array(metadata: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    key = f"tokenizer.ggml.{name}"
    given = metadata.get(key)
    if isinstance(given, np.ndarray):  # of numbers, and as a list eight times as large: what is wrong is told before
        if given.dtype.kind not in _KINDS.get(kind, "") and given.size:
            raise TokenizerError(f"{key}[0] is {given[0].item()!r:.60}, not a {kind.__name__}")
        given = given.tolist()
    values: list[Any] = entry({key: given}, key, list, [])
    for i, value in enumerate(values):
        if type(value) is not kind or (isinstance(value, float) and math.isnan(value)):
            raise TokenizerError(f"{key}[{i}] is {value!r:.60}, not a {kind.__name__}")
    return values


def _merges(metadata: Mapping[str, Any], ids: Mapping[str, int]) -> list[tuple[str, str]]:
    merges = []
    for i, merge in enumerate(_array(metadata, "merges", str)):
        left, space, right = merge.partition(" ")
        unknown = [piece for piece in (left, right, left + right) if piece not in ids]
        if not space or unknown:
            reason = f"{unknown[0]!r:.60} is not in the vocabulary" if space else "it has no space"
            raise TokenizerError(f"tokenizer.ggml.merges[{i}] is {merge!r:.60}: {reason}")
        merges.append((left, right))
    return merges


def _roles(metadata: Mapping[str, Any], size: int) -> dict[Role, int]:
    roles: dict[Role, int] = {}
    for role, name in _ROLE_KEYS.items():
        key = f"tokenizer.ggml.{name}"
        token = entry(metadata, key, int, None)
        if token is None:
            continue
        if not 0 <= token < size:
            raise TokenizerError(f"{key} is {token}, but the vocabulary has {size} tokens")
        roles[role] = token
    return roles
