"""Text to tokens and back, with the repository's own chat template."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from halfbyte.checkpoint.chat_template import render_chat_template
from halfbyte.checkpoint.stream_decoder import (
    ByteLevelStream,
    HeldStream,
    PieceReader,
    PieceStream,
    StreamDecoder,
    bytes_of_piece,
    stream_kind,
)
from halfbyte.checkpoint.tokenizer_config import TokenizerConfig
from halfbyte.checkpoint.tokenizer_conversion import convert, load_backend
from halfbyte.errors import TokenizerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from halfbyte.checkpoint.source import Source
    from halfbyte.checkpoint.stream_decoder import StreamKind

__all__ = ["StreamDecoder", "Tokenizer"]

# English spacing that `clean_up_tokenization_spaces` asks for, in this order.
_CLEAN_UPS = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class Tokenizer:
    """A repository's tokenizer."""

    eos_token_ids: frozenset[int]  # from generation_config.json, config.json and tokenizer_config.json together
    bos_token_id: int | None
    vocab_size: int
    chat_template: str | None

    def __init__(self, backend: Backend, config: TokenizerConfig, spec: str) -> None:
        self.backend = backend
        self.special_tokens = {role: token.content for role, token in config.special_tokens.items()}
        self._spec = spec
        self._chat_templates = config.chat_templates
        _add_tokens(backend, config)
        backend.no_truncation()
        backend.no_padding()
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        self.chat_template = config.chat_templates.get("default")
        eos = self._special_id("eos_token")
        self.eos_token_ids = config.eos_token_ids | (frozenset() if eos is None else {eos})
        bos = self._special_id("bos_token")
        self.bos_token_id = config.bos_token_id if bos is None else bos
        self.pad_token_id = self._special_id("pad_token")
        # BPE keeps its own spaces: cleaning would eat them, so transformers leaves it out there.
        self._cleans_up = config.clean_up_tokenization_spaces and type(backend.model).__name__ != "BPE"
        self._stream_kind: StreamKind = "held" if self._cleans_up else stream_kind(backend)
        self._token_bytes: dict[int, bytes] = {}
        self._readers: dict[bool, PieceReader] = {}  # by whether they skip special tokens

    @classmethod
    def from_source(cls, source: Source) -> Tokenizer:
        """Raises TokenizerError if the source has none."""
        data = source.file("tokenizer.json")
        config = TokenizerConfig.from_source(source)
        if data is not None:
            return cls(load_backend(data, f"{source.spec}: tokenizer.json"), config, source.spec)
        backend, defaults = convert(source)
        return cls(backend, replace(config, special_tokens=defaults | config.special_tokens), source.spec)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text; special tokens written in the text are recognised, as in transformers."""
        try:
            return self.backend.encode(text, add_special_tokens=add_special_tokens).ids
        except TypeError as error:  # what the Rust library makes of half a surrogate pair
            if not isinstance(text, str):
                raise
            raise TokenizerError("the text is not valid Unicode: it holds half of a surrogate pair") from error

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of token ids. Ids outside the vocabulary give no text."""
        try:
            text = self.backend.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)
        except OverflowError as error:
            raise TokenizerError(f"{next(int(i) for i in ids if not 0 <= i < 2**32)} is not a token id") from error
        return _clean_up(text) if self._cleans_up else text

    def token_bytes(self, token: int) -> bytes:
        """What a token adds to a text that has begun: perhaps half of a character. Special ones are written out."""
        found = self._token_bytes.get(token)
        if found is None:
            found = self._token_bytes[token] = bytes_of_piece(self.backend, token, self._stream_kind)
        return found

    def render_chat(
        self, messages: Sequence[dict[str, Any]], *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """Render the chat template. Raises TokenizerError if there is none or it refuses the messages."""
        defaults = {"tools": None, "documents": None, "add_generation_prompt": add_generation_prompt}
        template = self._template_for(variables.get("tools"))
        return render_chat_template(template, messages, defaults | self.special_tokens | variables)

    def with_chat_template(self, template: str) -> Tokenizer:
        """This tokenizer with another chat template, in Jinja, instead of all that it has."""
        other = copy(self)
        other.chat_template = template
        other._chat_templates = {"default": template}
        return other

    @property
    def chat_templates(self) -> dict[str, str]:
        """All templates by name; the only or usual one is "default"."""
        return dict(self._chat_templates)

    @property
    def adds_bos(self) -> bool:
        """Whether plain text is encoded with a beginning-of-sequence token before it."""
        return self.bos_token_id is not None and self.encode("")[:1] == [self.bos_token_id]

    def stream(self, *, skip_special_tokens: bool = True) -> StreamDecoder:
        """A decoder for tokens that arrive one at a time."""
        if self._stream_kind == "held":
            return HeldStream(lambda ids: self.decode(ids, skip_special_tokens=skip_special_tokens))
        pieces = self._readers.get(skip_special_tokens)
        if pieces is None:
            decode = self.backend.decoder.decode if self.backend.decoder else " ".join
            pieces = PieceReader(self.backend, decode, skip_special_tokens=skip_special_tokens)
            self._readers[skip_special_tokens] = pieces
        if self._stream_kind == "bytes":
            return ByteLevelStream(pieces)
        return PieceStream(pieces, byte_fallback=self._stream_kind == "pieces and bytes")

    def _special_id(self, role: str) -> int | None:
        text = self.special_tokens.get(role)
        return None if text is None else self.backend.token_to_id(text)

    def _template_for(self, tools: Any) -> str:
        templates = self._chat_templates
        template = templates.get("tool_use", self.chat_template) if tools is not None else self.chat_template
        if template is not None:
            return template
        if templates:
            raise TokenizerError(f"{self._spec}: no chat template is the default among {', '.join(sorted(templates))}")
        raise TokenizerError(f"{self._spec} has no chat template: it takes plain prompts, not chat messages")


def _add_tokens(backend: Backend, config: TokenizerConfig) -> None:
    """Add the tokens that the config knows and tokenizer.json does not, or knows with other flags."""
    present = backend.get_added_tokens_decoder().values()
    known = {repr(token) for token in present}
    texts = {token.content for token in present}
    new = [token for token in config.added_tokens if repr(token) not in known]
    texts |= {token.content for token in new}
    special = [*config.special_tokens.values(), *config.extra_special_tokens]
    new += [token for token in {t.content: t for t in special}.values() if token.content not in texts]
    roles = {token.content for token in config.special_tokens.values()}
    backend.add_tokens([_as_special(token) if token.content in roles else token for token in new])


def _as_special(token: AddedToken) -> AddedToken:
    token.special = True
    return token


def _clean_up(text: str) -> str:
    for ending in _CLEAN_UPS:
        text = text.replace(ending, ending.strip())
    return text
