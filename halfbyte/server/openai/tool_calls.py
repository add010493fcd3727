"""Reads calls of functions from an answer as it is written, so that they can be streamed; whole answers too."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass, field
from typing import Any

_NAME = r'("(?:[^"\\]|\\.)*")'


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a call is written: after `mark`, or at the very beginning, `head`, which holds the name, and an object."""

    mark: str | None
    head: re.Pattern[str]


AIROBOROS = CallForm(None, re.compile(rf'"function":\s*{_NAME},\s*"params":\s*'))
HERMES = CallForm("<tool_call>", re.compile(rf'\{{"name":\s*{_NAME},\s*"arguments":\s*'))


@dataclass(frozen=True, slots=True)
class Words:
    """A piece of text."""

    text: str


@dataclass(frozen=True, slots=True)
class Begin:
    """A call begins."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """A piece of the arguments' JSON of the call that began last."""

    index: int
    text: str


Piece = Words | Begin | Arguments


class CallReader:
    """Takes the pieces of one answer's text. The texts that it hands out are the answer's, without the call's frame."""

    def __init__(self, form: CallForm | None) -> None:
        """form: None where the answer is words whatever they look like."""
        self._form = form
        self._read = self._words if form is None else self._beginning if form.mark is None else self._words_or_mark
        self._held = ""
        self._object: _Object | None = None
        self.calls = 0

    def push(self, text: str) -> list[Piece]:
        """What this text completes."""
        if self._form is None:
            return [Words(text)] if text else []
        self._held += text
        pieces: list[Piece] = []
        while (found := self._read()) is not None:
            pieces += found
        return pieces

    def flush(self) -> list[Piece]:
        """What is left when the answer has ended."""
        held, self._held = self._held, ""
        return [Words(held)] if held and self._read == self._words_or_mark else []

    # Each reads from _held what it can, and gives None once it needs more.

    def _words(self) -> list[Piece] | None:
        held, self._held = self._held, ""
        return [Words(held)] if held else None

    def _beginning(self) -> list[Piece] | None:
        self._held = self._held.lstrip()
        if not self._held:
            return None
        self._read = self._head if self._held[0] in "{[" else self._words
        return []

    def _words_or_mark(self) -> list[Piece] | None:
        assert self._form is not None
        assert self._form.mark is not None
        before, mark, after = self._held.partition(self._form.mark)
        if mark:
            self._held, self._read = after, self._head
            before = before.rstrip()
            return [Words(before)] if before else []
        keep = _overlap(before, self._form.mark)
        self._held = before[len(before) - keep :]
        words = before[: len(before) - keep]
        return [Words(words)] if words else None

    def _head(self) -> list[Piece] | None:
        assert self._form is not None
        match = self._form.head.search(self._held)
        if match is None:
            return None
        self._held, self._read, self._object = self._held[match.end() :], self._arguments, _Object()
        self.calls += 1
        return [Begin(self.calls - 1, new_call_id(), json.loads(match[1]))]

    def _arguments(self) -> list[Piece] | None:
        assert self._object is not None
        if not self._object.depth:
            self._held = self._held.lstrip()
        if not self._held:
            return None
        end = self._object.end(self._held)
        text, self._held = self._held[:end], self._held[end:]
        if self._object.is_closed:
            self._read = self._head
        return [Arguments(self.calls - 1, text)]


@dataclass(slots=True)
class _Object:
    """Finds where a JSON object ends."""

    depth: int = 0
    in_text: bool = False
    escaped: bool = False
    is_closed: bool = False

    def end(self, text: str) -> int:
        """How many of these characters are still of it."""
        for place, character in enumerate(text):
            if self._closes(character):
                self.is_closed = True
                return place + 1
        return len(text)

    def _closes(self, character: str) -> bool:
        if self.in_text:
            self.in_text = self.escaped or character != '"'
            self.escaped = character == "\\" and not self.escaped
        elif character == '"':
            self.in_text = True
        elif character in "{[":
            self.depth += 1
        elif character in "}]":
            self.depth -= 1
            return self.depth == 0
        return False


@dataclass(slots=True)
class ToolMessage:
    """Puts pieces together to a message."""

    content: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        """Take the next."""
        if isinstance(piece, Words):
            self.content += piece.text
        elif isinstance(piece, Begin):
            function = {"name": piece.name, "arguments": ""}
            self.calls.append({"id": piece.id, "type": "function", "function": function})
        else:
            self.calls[piece.index]["function"]["arguments"] += piece.text

    def as_dict(self) -> dict[str, Any]:
        """OpenAI's object."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content, "refusal": None}
        if self.calls:
            message |= {"content": self.content or None, "tool_calls": self.calls}
        return message


def read_message(form: CallForm | None, text: str) -> ToolMessage:
    """A whole answer."""
    reader, message = CallReader(form), ToolMessage()
    for piece in reader.push(text) + reader.flush():
        message.add(piece)
    return message


def delta_of(piece: Piece) -> dict[str, Any]:
    """A piece as the delta of a streamed chat."""
    if isinstance(piece, Words):
        return {"content": piece.text}
    if isinstance(piece, Begin):
        function = {"name": piece.name, "arguments": ""}
        return {"tool_calls": [{"index": piece.index, "id": piece.id, "type": "function", "function": function}]}
    return {"tool_calls": [{"index": piece.index, "function": {"arguments": piece.text}}]}


def new_call_id() -> str:
    """Unique in a conversation, and elsewhere."""
    return f"call_{uuid.uuid4().hex[:24]}"


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of `text` may be the beginning of `mark`, or white space before it."""
    size = next((size for size in range(min(len(text), len(mark) - 1), 0, -1) if text.endswith(mark[:size])), 0)
    return len(text) - len(text[: len(text) - size].rstrip())
