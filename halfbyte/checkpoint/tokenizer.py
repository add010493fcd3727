"""Text to tokens and back, with the repository's own chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from halfbyte.checkpoint.source import Source


class Tokenizer:
    """A repository's tokenizer."""

    eos_token_ids: frozenset[int]  # from generation_config.json, config.json and tokenizer_config.json together
    bos_token_id: int | None
    vocab_size: int
    chat_template: str | None

    @classmethod
    def from_source(cls, source: Source) -> Tokenizer:
        """Raises TokenizerError if the source has none."""
        raise NotImplementedError

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text; special tokens written in the text are recognised, as in transformers."""
        raise NotImplementedError

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of token ids."""
        raise NotImplementedError

    def render_chat(
        self, messages: Sequence[dict[str, Any]], *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """Render the chat template. Raises TokenizerError if there is none or it refuses the messages."""
        raise NotImplementedError

    def stream(self, *, skip_special_tokens: bool = True) -> StreamDecoder:
        """A decoder for tokens that arrive one at a time."""
        raise NotImplementedError


class StreamDecoder:
    """Turns tokens into text as they come; never hands out half of a multi-byte character."""

    def push(self, token: int) -> str:
        """The text that this token completes, possibly empty."""
        raise NotImplementedError

    def flush(self) -> str:
        """What is left when the stream ends."""
        raise NotImplementedError
