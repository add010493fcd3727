"""Words that may not come, as tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from halfbyte.checkpoint.tokenizer import Tokenizer


def tokens_of_words(words: Iterable[str], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """Each word at the beginning of a text and after a space, as vLLM reads them."""
    found = {
        tuple(tokenizer.encode(before + word.lstrip(), add_special_tokens=False))
        for word in words
        for before in ("", " ")
    }
    return tuple(sorted(tokens for tokens in found if tokens))
