"""Ends connections whose request line and headers do not come in time, or do not end: uvicorn waits for ever."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    from asyncio import Transport

MOST_HEADER_BYTES = 64 << 10


def impatient(header_seconds: float) -> type[HttpToolsProtocol]:
    """uvicorn's protocol with that much time for a request's headers, from the connection or its first byte on.

    Between two requests of a connection uvicorn's own limit (keep_alive) counts until that byte comes. As much time
    has the rest of a body that nobody reads, since its request was refused; then the connection is closed.
    """

    class Impatient(HttpToolsProtocol):
        _in_message = _in_head = _has_ended = False
        _head_bytes = 0
        _limit: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._begin_to_wait()

        def data_received(self, data: bytes) -> None:
            self._has_ended = False
            super().data_received(data)
            is_of_head = self._awaits_headers() and not self._has_ended  # else a body's last bytes are in it
            self._head_bytes = self._head_bytes + len(data) if is_of_head else 0
            if self.transport.is_closing() or not (self._awaits_headers() or self._is_refused()):
                self._end_waiting()
            elif self._head_bytes > MOST_HEADER_BYTES:
                self._refuse(b"431 Request Header Fields Too Large")
            elif self._limit is None:
                self._begin_to_wait()

        def on_message_begin(self) -> None:
            self._in_message = self._in_head = True
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._in_head = False
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._in_message, self._has_ended = False, True
            super().on_message_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._end_waiting()
            super().connection_lost(exc)

        def _awaits_headers(self) -> bool:
            """Whether a request's headers, and nothing else, are missing."""
            if self._in_message:
                return self._in_head
            return self.cycle is None or self.cycle.response_complete

        def _is_refused(self) -> bool:
            """Whether a body is still coming whose request has been answered; uvicorn's limit ends with each byte."""
            return self._in_message and self.cycle is not None and self.cycle.response_complete

        def _begin_to_wait(self) -> None:
            self._limit = self.loop.call_later(header_seconds, self._refuse, b"408 Request Timeout")

        def _end_waiting(self) -> None:
            if self._limit is not None:
                self._limit.cancel()
                self._limit = None

        def _refuse(self, status: bytes) -> None:
            self._end_waiting()
            if self.transport.is_closing() or (self.cycle is not None and not self.cycle.response_complete):
                return  # an answer is on its way to a client that has begun to ask for more: that one is not cut off
            if self._in_head or not self._in_message:  # else the answer has been sent
                self.transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()

    return Impatient
