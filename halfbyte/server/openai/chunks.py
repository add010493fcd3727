"""Writes the chunks of a stream: all that does not change is written once, only text and ends are added per token."""

from __future__ import annotations

import json
from json.encoder import encode_basestring_ascii as quote  # C, without the machinery of json.dumps
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from halfbyte.server.models import ServedModel
    from halfbyte.server.openai.usage import Usage

FINISH = {None: "null", "stop": '"stop"', "length": '"length"', "abort": '"abort"', "tool_calls": '"tool_calls"'}


class ChunkWriter:
    """Chunks of one response."""

    def __init__(
        self, kind: str, response_id: str, model: ServedModel, created: int, usage: Usage | None, *,
        always: bool = False,
    ) -> None:  # fmt: skip
        """kind: "text_completion" or "chat.completion.chunk". usage: to be told at the end; always: with each chunk."""
        about = {
            "id": response_id, "object": kind, "created": created, "model": model.name,
            "system_fingerprint": model.fingerprint,
        }  # fmt: skip
        self._head = f'data: {json.dumps(about)[:-1]}, "choices":['
        self._usage, self._always = usage, always
        self._tail = "]}\n\n" if usage is None else '],"usage":null}\n\n'

    def text(self, index: int, text: str, finish: str | None, logprobs: str = "null") -> bytes:
        """A step of a completion. logprobs: as JSON."""
        choice = f'{{"index":{index},"text":{quote(text)},"logprobs":{logprobs},"finish_reason":{FINISH[finish]}}}'
        return self._chunk(choice)

    def content(self, index: int, text: str, finish: str | None, logprobs: str = "null") -> bytes:
        """A step of a chat's answer."""
        delta = f'{{"content":{quote(text)}}}' if text else "{}"
        return self.delta(index, delta, finish, logprobs)

    def delta(self, index: int, delta: str, finish: str | None = None, logprobs: str = "null") -> bytes:
        """A step of a chat's message; delta, logprobs: as JSON."""
        return self._chunk(
            f'{{"index":{index},"delta":{delta},"logprobs":{logprobs},"finish_reason":{FINISH[finish]}}}'
        )

    def usage(self) -> bytes:
        """The last chunk before [DONE], if usage is to be told."""
        if self._usage is None:
            return b""
        return f'{self._head}],"usage":{self._usage.json()}}}\n\n'.encode()

    def _chunk(self, choice: str) -> bytes:
        tail = f'],"usage":{self._usage.json()}}}\n\n' if self._always and self._usage else self._tail
        return f"{self._head}{choice}{tail}".encode()
