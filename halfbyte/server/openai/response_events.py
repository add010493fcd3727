"""A response as it grows: its items, and the events that tell a stream of it. One writer makes both."""

from __future__ import annotations

import json
import uuid
from json.encoder import encode_basestring_ascii as quote
from typing import TYPE_CHECKING, Any

from halfbyte.server.openai.tool_calls import Begin, Words

if TYPE_CHECKING:
    from halfbyte.server.openai.tool_calls import Piece

Event = dict[str, Any]


class ResponseWriter:
    """Takes the pieces of an answer; `response` is what there is of it."""

    def __init__(self, response: dict[str, Any]) -> None:
        self.response = response
        self._number = 0  # of the next event
        self._open: dict[str, Any] | None = None  # the item being written
        self._texts: list[str] = []  # of it
        self._logprobs: list[dict[str, Any]] = []  # of its text
        self._head = ""  # of a text's next event

    def begin(self) -> bytes:
        """The response has begun."""
        self.response["status"] = "in_progress"
        return self._event("response.created", response=self.response) + self._event(
            "response.in_progress", response=self.response
        )

    def add(self, piece: Piece, logprobs: list[dict[str, Any]] | None = None) -> bytes:
        """A piece, and the log-probabilities of the tokens it came with."""
        if isinstance(piece, Words):
            return self._add_words(piece.text, logprobs or [])
        if isinstance(piece, Begin):
            item = {"type": "function_call", "id": new_id("fc"), "call_id": piece.id, "name": piece.name}
            return self._close() + self._add_item(item | {"arguments": "", "status": "in_progress"})
        self._texts.append(piece.text)
        return self._event("response.function_call_arguments.delta", **self._place(), delta=piece.text)

    def end(self, reason: str | None, usage: dict[str, Any]) -> bytes:
        """The answer has ended, for this reason."""
        is_cut = reason == "length"
        status = "incomplete" if is_cut else "completed"
        closing = self._close(status)
        self.response |= {"status": status, "usage": usage}
        if is_cut:
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
        return closing + self._event(f"response.{status}", response=self.response)

    def cancel(self) -> None:
        """Nobody wants the rest. What has ended stays as it is."""
        if self.response["status"] in ("queued", "in_progress"):
            self._close("incomplete")
            self.response["status"] = "cancelled"

    def fail(self, message: str) -> bytes:
        """It will not be answered to its end."""
        closing = self._close("incomplete")
        self.response |= {"status": "failed", "error": {"code": "server_error", "message": message}}
        return closing + self._event("response.failed", response=self.response)

    def _add_words(self, text: str, logprobs: list[dict[str, Any]]) -> bytes:
        opening = b""
        if self._open is None or self._open["type"] != "message":
            item = {"type": "message", "id": new_id("msg"), "role": "assistant", "content": []}
            opening = self._close() + self._add_item(item | {"status": "in_progress"})
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            opening += self._event("response.content_part.added", **self._place(), content_index=0, part=part)
            kind, place = "response.output_text.delta", json.dumps(self._place())[1:-1]
            self._head = f'event: {kind}\ndata: {{"type":"{kind}",{place},"content_index":0,"delta":'
        self._texts.append(text)
        self._logprobs += logprobs
        found = json.dumps(logprobs) if logprobs else "[]"
        frame = f'{self._head}{quote(text)},"logprobs":{found},"sequence_number":{self._number}}}\n\n'
        self._number += 1
        return opening + frame.encode()

    def _add_item(self, item: dict[str, Any]) -> bytes:
        self._open, self._texts, self._logprobs = item, [], []
        self.response["output"].append(item)
        return self._event("response.output_item.added", output_index=len(self.response["output"]) - 1, item=item)

    def _close(self, status: str = "completed") -> bytes:
        """The open item is complete, or as complete as it gets."""
        item, self._open = self._open, None
        if item is None:
            return b""
        place, text = self._place(item), "".join(self._texts)
        item["status"] = status
        if item["type"] == "function_call":
            item["arguments"] = text
            closing = self._event("response.function_call_arguments.done", **place, name=item["name"], arguments=text)
        else:
            part = {"type": "output_text", "text": text, "annotations": [], "logprobs": self._logprobs}
            item["content"] = [part]
            where = {**place, "content_index": 0}
            closing = self._event("response.output_text.done", **where, text=text, logprobs=self._logprobs)
            closing += self._event("response.content_part.done", **where, part=part)
        return closing + self._event("response.output_item.done", output_index=place["output_index"], item=item)

    def _place(self, item: dict[str, Any] | None = None) -> dict[str, Any]:
        item = item or self._open
        assert item is not None
        return {"item_id": item["id"], "output_index": len(self.response["output"]) - 1}

    def _event(self, kind: str, **what: Any) -> bytes:
        event = {"type": kind, **what, "sequence_number": self._number}
        self._number += 1
        return f"event: {kind}\ndata: {json.dumps(event)}\n\n".encode()


def new_id(kind: str) -> str:
    """Of a response, a message or a call."""
    return f"{kind}_{uuid.uuid4().hex}"
