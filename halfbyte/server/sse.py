"""Server-sent events, written straight to ASGI: what a token costs is one `send`.

A reader that is slow holds up only its own stream: `send` waits while the socket's buffer is full, and the tokens
queue up meanwhile, at most as many as the request asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from halfbyte.server.disconnect import ClientGone, while_connected

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

DONE = b"data: [DONE]\n\n"
# proxies must neither keep nor gather events
HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}


class EventStream(Response):
    """A response whose frames come from a generator, which is closed when the client goes away."""

    def __init__(
        self,
        first: bytes,
        frames: AsyncGenerator[bytes, None],
        failed: Callable[[Exception], bytes],
        headers: dict[str, str] | None = None,
    ) -> None:
        """first: the frame that is there already. failed: the last frames, of a stream that an error ends."""
        self.status_code = 200
        self.background = None
        self.init_headers(HEADERS | (headers or {}))
        self._first, self._frames, self._failed = first, frames, failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all."""
        try:
            await while_connected(receive, self._send(send))
        except ClientGone:
            pass
        finally:
            await self._frames.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self._first, "more_body": True})
        try:
            async for frame in self._frames:
                await send({"type": "http.response.body", "body": frame, "more_body": True})
        except Exception as error:  # the status is sent: all that can be done is to say so
            await send({"type": "http.response.body", "body": self._failed(error), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def event_stream(
    request: Request, frames: AsyncGenerator[bytes, None], failed: Callable[[Exception], bytes], **options: Any
) -> EventStream:
    """The response, once its first frame is there: what fails before it has a status of its own."""
    try:
        first = await while_connected(request.receive, anext(frames))
    except BaseException:
        await frames.aclose()
        raise
    return EventStream(first, frames, failed, **options)
