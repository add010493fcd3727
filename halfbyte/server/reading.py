"""Turns what was asked into tokens; long texts in a thread, so that other streams go on meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from halfbyte.engine.prompt import ReadPrompt

if TYPE_CHECKING:
    from halfbyte.server.models import ServedModel

LONG = 2000  # characters; about a millisecond


async def read_text(model: ServedModel, text: str, *, add_special_tokens: bool = True) -> ReadPrompt:
    """A text's tokens."""

    def read() -> ReadPrompt:
        return ReadPrompt(text, model.tokenizer.encode(text, add_special_tokens=add_special_tokens))

    return read() if len(text) < LONG else await asyncio.to_thread(read)


def cut(prompt: ReadPrompt, most: int | None) -> ReadPrompt:
    """The prompt's last tokens, if it may not have more."""
    if most is None or len(prompt.token_ids) <= most:
        return prompt
    return ReadPrompt(None, prompt.token_ids[-most:])
