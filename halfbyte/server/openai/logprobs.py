"""Log-probabilities in OpenAI's two shapes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from halfbyte.checkpoint.tokenizer import Tokenizer
    from halfbyte.engine.outputs import Logprob, LogprobsOfStep

LEAST = -9999.0  # JSON has no -inf; OpenAI writes this


class CompletionLogprobs:
    """The shape of /v1/completions, for one answer: parallel lists, of all tokens so far or of some.

    A token whose bytes are no text by themselves is written as `bytes:\\xe2\\x82`, so that no two tokens look the same:
    whoever compares a token with the keys of top_logprobs, as lm-eval does, would be misled.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skips = skip_special_tokens
        self._decoder = tokenizer.stream(skip_special_tokens=skip_special_tokens)
        self._offset = 0  # characters of the text before the next token
        self._lists: tuple[list[Any], ...] = ([], [], [], [])

    def add(self, token: int, step: LogprobsOfStep | None) -> None:
        """The next token; None for the first of a prompt, before which there is nothing."""
        texts, own, top, offsets = self._lists
        texts.append(legacy_text(self._tokenizer, token))
        own.append(None if step is None else _number(step[token]))
        top.append(None if step is None else self._top(step))
        offsets.append(self._offset)
        self._offset += len(self._decoder.push(token))

    def add_prompt(self, tokens: Sequence[int], steps: Sequence[LogprobsOfStep | None]) -> None:
        """A prompt's tokens, which come before all others."""
        for token, step in zip(tokens, steps, strict=True):
            self.add(token, step)
        self._offset += len(self._decoder.flush())
        self._decoder = self._tokenizer.stream(skip_special_tokens=self._skips)

    def take(self) -> dict[str, Any]:
        """What was added since the last time."""
        names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        taken = dict(zip(names, self._lists, strict=True))
        self._lists = ([], [], [], [])
        return taken

    def _top(self, step: LogprobsOfStep) -> dict[str, float]:
        return {legacy_text(self._tokenizer, token): _number(found) for token, found in step.items()}


def chat_logprobs(
    tokenizer: Tokenizer, tokens: Iterable[int], steps: Iterable[LogprobsOfStep], top: int
) -> dict[str, Any]:
    """The shape of /v1/chat/completions."""
    content = []
    for token, step in zip(tokens, steps, strict=True):
        likeliest = sorted(step.items(), key=lambda item: item[1].rank)[:top]
        entry = _entry(tokenizer, token, step[token])
        entry["top_logprobs"] = [_entry(tokenizer, other, found) for other, found in likeliest]
        content.append(entry)
    return {"content": content, "refusal": None}


def chat_logprobs_json(tokenizer: Tokenizer, token: int, step: LogprobsOfStep | None, top: int) -> str:
    """The same of one step, as JSON."""
    return "null" if step is None else json.dumps(chat_logprobs(tokenizer, [token], [step], top))


def legacy_text(tokenizer: Tokenizer, token: int) -> str:
    """A token's text, or its bytes where they are none."""
    found = tokenizer.token_bytes(token)
    try:
        return found.decode()
    except UnicodeDecodeError:
        return "bytes:" + _escaped(found)


def _entry(tokenizer: Tokenizer, token: int, found: Logprob) -> dict[str, Any]:
    as_bytes = tokenizer.token_bytes(token)
    try:
        text = as_bytes.decode()
    except UnicodeDecodeError:
        text = _escaped(as_bytes)
    return {"token": text, "logprob": _number(found), "bytes": list(as_bytes)}


def _escaped(found: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in found)


def _number(found: Logprob) -> float:
    return max(found.logprob, LEAST)
