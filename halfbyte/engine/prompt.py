"""The forms that a prompt may have, as in vLLM: a text, {"prompt": text} or {"prompt_token_ids": [...]}."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from halfbyte.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from halfbyte.checkpoint.tokenizer import Tokenizer

FORMS = 'a text, {"prompt": text} or {"prompt_token_ids": [...]}'


class TextPrompt(TypedDict):
    """A text to be tokenized."""

    prompt: str


class TokensPrompt(TypedDict):
    """Token ids, taken as they are."""

    prompt_token_ids: list[int]


Prompt = str | TextPrompt | TokensPrompt


@dataclass(frozen=True, slots=True)
class ReadPrompt:
    """A prompt's tokens, and its text if it had one."""

    text: str | None
    token_ids: list[int]


def as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or several, as a list."""
    if isinstance(prompts, str | dict):
        return [prompts]
    try:
        return list(prompts)
    except TypeError:
        raise RequestError(
            f"prompts is of type {type(prompts).__name__}; it must be {FORMS}, or a list of these"
        ) from None


def read_prompt(prompt: Prompt, tokenizer: Tokenizer) -> ReadPrompt:
    """Tokenize a prompt. Raises RequestError if it has no known form."""
    if isinstance(prompt, dict):
        content: Any = next(iter(prompt.values()), None)
        if list(prompt) == ["prompt_token_ids"] and _are_ids(content):
            return ReadPrompt(None, [int(i) for i in content])
        if list(prompt) == ["prompt"] and isinstance(content, str):
            return ReadPrompt(content, tokenizer.encode(content))
    elif isinstance(prompt, str):
        return ReadPrompt(prompt, tokenizer.encode(prompt))
    raise RequestError(f"{prompt!r:.80} is no prompt; give {FORMS}")


def _are_ids(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(i, int) and not isinstance(i, bool) for i in value)
