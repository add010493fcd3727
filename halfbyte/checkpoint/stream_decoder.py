"""Text from tokens that arrive one at a time.

The sum of all that a stream hands out is exactly what decoding the whole sequence at once gives. Each kind of decoder
needs something else for that, always at a cost per token that does not grow with the sequence:

- byte-level BPE: the text is the bytes of all tokens, so an incremental UTF-8 decoder is exact;
- SentencePiece-like: each piece is text by itself, except at the very start (a leading space is dropped) and in a run
  of byte tokens, which is text only if the whole run is valid. A run is therefore held while it is valid; it comes out
  when it ends, or byte by byte from the moment it has become invalid;
- any other decoder may change its mind until the end, so all comes at the end.
"""

from __future__ import annotations

import codecs
import json
import re
from abc import ABC, abstractmethod
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from halfbyte.errors import TokenizerError

if TYPE_CHECKING:
    from collections.abc import Callable

    import tokenizers

StreamKind = Literal["bytes", "pieces", "pieces and bytes", "held"]

ANCHOR = "a"  # put before pieces so that they are not decoded as the first of the text
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2}|\+[0-9A-Fa-f])>")  # as the ByteFallback decoder reads it, "+" and all
_LOCAL_STEPS = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace", "WordPiece"}


class StreamDecoder(ABC):
    """Turns tokens into text as they come; never hands out half of a multi-byte character."""

    @abstractmethod
    def push(self, token: int) -> str:
        """The text that this token completes, possibly empty."""

    @abstractmethod
    def flush(self) -> str:
        """What is left when the stream ends."""


class PieceReader:
    """The pieces of the vocabulary that take part in decoding, by id. Remembers those that came."""

    def __init__(
        self, backend: tokenizers.Tokenizer, decode: Callable[[list[str]], str], *, skip_special_tokens: bool
    ) -> None:
        """decode: the text of pieces."""
        self._backend = backend
        self.decode = decode
        self._anchor_length = len(decode([ANCHOR]))
        self._pieces: dict[int, str | None] = {}
        self._bytes: dict[int, bytes] = {}
        self._texts: dict[str, str] = {}
        added = backend.get_added_tokens_decoder().values() if skip_special_tokens else ()
        self._skipped = frozenset(token.content for token in added if token.special)

    def __call__(self, token: int) -> str | None:
        """The piece, or None if decoding leaves the token out (special, or not in the vocabulary)."""
        try:
            return self._pieces[token]
        except KeyError:
            piece = self._pieces[token] = self._read(token)
            return piece

    def bytes_of(self, token: int) -> bytes:
        """What a byte-level piece spells, nothing for one that is left out."""
        try:
            return self._bytes[token]
        except KeyError:
            piece = self(token)
            found = self._bytes[token] = b"" if piece is None else piece_bytes(piece)
            return found

    def text_of(self, piece: str) -> str:
        """The text of a piece that is not the first."""
        try:
            return self._texts[piece]
        except KeyError:
            text = self._texts[piece] = self.decode([ANCHOR, piece])[self._anchor_length :]
            return text

    def text_of_run(self, pieces: list[str]) -> str:
        """The text of pieces that are not the first."""
        return self.decode([ANCHOR, *pieces])[self._anchor_length :]

    def _read(self, token: int) -> str | None:
        try:
            piece = self._backend.id_to_token(token)
        except OverflowError as error:
            raise TokenizerError(f"{token} is not a token id") from error
        return None if piece in self._skipped else piece


class ByteLevelStream(StreamDecoder):
    """For byte-level BPE: every piece spells bytes."""

    def __init__(self, pieces: PieceReader) -> None:
        self._pieces = pieces
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._is_between = True  # characters

    def push(self, token: int) -> str:
        """The characters that this token's bytes complete."""
        data = self._pieces.bytes_of(token)
        if self._is_between and data.isascii():
            return data.decode("ascii")
        text = self._utf8.decode(data)
        self._is_between = not self._utf8.getstate()[0]
        return text

    def flush(self) -> str:
        """At most one unfinished character."""
        return self._utf8.decode(b"", final=True)


class PieceStream(StreamDecoder):
    """For decoders that turn each piece into text by itself, such as SentencePiece's."""

    def __init__(self, pieces: PieceReader, *, byte_fallback: bool = False) -> None:
        self._pieces = pieces
        self._head: list[str] | None = []  # the pieces so far, until one of them has been more than nothing
        self._byte_fallback = byte_fallback
        self._run: list[str] = []  # byte pieces, valid so far
        self._run_is_broken = False
        self._run_utf8 = codecs.getincrementaldecoder("utf-8")(errors="strict")

    def push(self, token: int) -> str:
        """The text of this piece, after that of a run of bytes which it ends."""
        piece = self._pieces(token)
        if piece is None:
            return ""
        if self._byte_fallback and piece.startswith("<0x") and (match := _BYTE_PIECE.fullmatch(piece)):
            return self._push_byte(piece, int(match[1], 16))
        if self._head is None and not self._run and not self._run_is_broken:
            return self._pieces.text_of(piece)
        return self._end_run() + self._text([piece])

    def flush(self) -> str:
        """A run of bytes that the end of the stream ends."""
        return self._end_run()

    def _push_byte(self, piece: str, byte: int) -> str:
        if self._run_is_broken:
            return REPLACEMENT
        self._run.append(piece)
        try:
            self._run_utf8.decode(bytes([byte]))
        except UnicodeDecodeError:
            self._run_is_broken = True
            return self._text_of_run()
        return ""

    def _end_run(self) -> str:
        self._run_utf8.reset()
        self._run_is_broken = False
        return self._text_of_run()

    def _text_of_run(self) -> str:
        run, self._run = self._run, []
        return self._text(run) if run else ""

    def _text(self, pieces: list[str]) -> str:
        later = self._pieces.text_of_run(pieces)
        if self._head is None:
            return later
        self._head += pieces
        text = self._pieces.decode(self._head)
        if later:
            self._head = None
        return text


class HeldStream(StreamDecoder):
    """For decoders whose text can change until the end."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []

    def push(self, token: int) -> str:
        """Nothing yet."""
        self._ids.append(token)
        return ""

    def flush(self) -> str:
        """The whole text."""
        ids, self._ids = self._ids, []
        return self._decode(ids)


def stream_kind(backend: tokenizers.Tokenizer) -> StreamKind:
    """Which stream is exact for a tokenizer, judged by the steps of its decoder."""
    state = json.loads(backend.decoder.__getstate__()) if backend.decoder else None
    steps = list(_steps(state))
    names = [step["type"] for step in steps]
    if names == ["ByteLevel"]:
        return "bytes"
    bytes_after_fuse = "Fuse" in names and "ByteFallback" in names[names.index("Fuse") :]
    if bytes_after_fuse or not all(_is_local(step) for step in steps):
        return "held"
    return "pieces and bytes" if "ByteFallback" in names else "pieces"


def piece_bytes(piece: str) -> bytes:
    """The bytes that a byte-level piece spells; a piece outside the byte alphabet (an added token) stands for itself.

    The alphabet is GPT-2's: printable Latin-1 characters are their own bytes, the others follow from U+0100 on.
    """
    alphabet = _byte_alphabet()
    try:
        return bytes([alphabet[character] for character in piece])
    except KeyError:
        return piece.encode()


def bytes_of_piece(backend: tokenizers.Tokenizer, token: int, kind: StreamKind) -> bytes:
    """What a token adds to a text that has begun, specials included; b"" for one that the vocabulary lacks."""
    piece = backend.id_to_token(token)
    if piece is None:
        return b""
    if token in backend.get_added_tokens_decoder():
        return piece.encode()
    if kind == "bytes":
        return piece_bytes(piece)
    if kind == "pieces and bytes" and (match := _BYTE_PIECE.fullmatch(piece)):
        return bytes([int(match[1], 16)])
    if kind == "held" or backend.decoder is None:
        text: str = backend.decode([token], skip_special_tokens=False)
    else:
        text = backend.decoder.decode([ANCHOR, piece])[len(backend.decoder.decode([ANCHOR])) :]
    return text.encode()


@cache
def _byte_alphabet() -> dict[str, int]:
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(shifted)}


def _steps(state: dict[str, Any] | None) -> list[dict[str, Any]]:
    if state is None:
        return []
    if state["type"] == "Sequence":
        return [inner for step in state["decoders"] for inner in _steps(step)]
    return [state]


def _is_local(step: dict[str, Any]) -> bool:
    """Whether the step gives each piece its text without looking at later ones."""
    if step["type"] == "Strip":
        return bool(step["stop"] == 0)
    if step["type"] == "Replace":  # a longer pattern could lie across two pieces
        return len(step["pattern"].get("String", "")) == 1
    return step["type"] in _LOCAL_STEPS
