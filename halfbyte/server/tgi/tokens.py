"""Tokens as TGI shows them."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from halfbyte.checkpoint.tokenizer import Tokenizer
    from halfbyte.engine.outputs import Logprob, LogprobsOfStep

LEAST = -9999.0  # JSON has no -inf


class TokenWriter:
    """The tokens of one text, in order: a character's text comes with the last of its tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._special = {i for i, token in tokenizer.backend.get_added_tokens_decoder().items() if token.special}

    def add(self, token: int, step: LogprobsOfStep | None) -> dict[str, Any]:
        """The next token."""
        text = self._decoder.decode(self._tokenizer.token_bytes(token))
        return self._entry(token, text, None if step is None else step[token])

    def top(self, step: LogprobsOfStep, count: int) -> list[dict[str, Any]]:
        """The likeliest tokens of a step."""
        likeliest = sorted(step.items(), key=lambda item: item[1].rank)[:count]
        return [
            self._entry(token, self._tokenizer.token_bytes(token).decode(errors="replace"), found)
            for token, found in likeliest
        ]

    def _entry(self, token: int, text: str, found: Logprob | None) -> dict[str, Any]:
        logprob = None if found is None else max(found.logprob, LEAST)
        return {"id": token, "text": text, "logprob": logprob, "special": token in self._special}


def prefill(
    tokenizer: Tokenizer, tokens: Sequence[int], steps: Sequence[LogprobsOfStep | None]
) -> list[dict[str, Any]]:
    """A prompt's tokens; the first has no log-probability."""
    write = TokenWriter(tokenizer)
    found = [write.add(token, step) for token, step in zip(tokens, steps, strict=True)]
    return [{name: entry[name] for name in ("id", "text", "logprob")} for entry in found]


def simple_tokens(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool = True) -> list[dict[str, Any]]:
    """A text's tokens with the places that they come from, in characters."""
    encoding = tokenizer.backend.encode(text, add_special_tokens=add_special_tokens)
    return [
        {"id": token, "text": piece if start == stop else text[start:stop], "start": start, "stop": stop}
        for token, piece, (start, stop) in zip(encoding.ids, encoding.tokens, encoding.offsets, strict=True)
    ]
