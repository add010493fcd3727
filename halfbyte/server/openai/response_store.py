"""The responses that can be asked for again, and gone on from."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from halfbyte.server.problems import ServerProblem

if TYPE_CHECKING:
    from halfbyte.server.auth import Key

MOST_BYTES = 64 << 20  # of all inputs together


@dataclass(slots=True)
class Stored:
    """A response; `items`: the whole conversation before it, with its input."""

    response: dict[str, Any]
    items: list[dict[str, Any]]
    input: list[dict[str, Any]]
    size: int  # bytes of the request
    owner: Key | None  # the key that came with the request
    task: asyncio.Task[None] | None = field(default=None, repr=False)  # that answers in the background


class ResponseStore:
    """By id; bounded in number and in size. What is full drops the oldest."""

    def __init__(self, most: int, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._size = 0
        self._kept: OrderedDict[str, Stored] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, stored: Stored) -> None:
        """Keep a response."""
        self._kept[stored.response["id"]] = stored
        self._size += stored.size
        while self._kept and (len(self._kept) > self._most or self._size > self._most_bytes):
            self._size -= self._kept.popitem(last=False)[1].size

    def get(self, response_id: str, owner: Key | None, param: str | None = None) -> Stored:
        """The response. Raises a 404 if it is not there, or was asked for with another key."""
        stored = self._kept.get(response_id)
        if stored is None or stored.owner != owner:
            message = (
                f"there is no response {response_id!r:.80}; the newest {self._most} are kept, until the server ends"
            )
            raise ServerProblem(404, message, code="not_found", param=param)
        return stored

    def delete(self, response_id: str, owner: Key | None) -> Stored:
        """Keep it no more. Raises as `get` does."""
        stored = self.get(response_id, owner)
        del self._kept[response_id]
        self._size -= stored.size
        return stored
