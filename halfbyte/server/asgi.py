"""Small things that ASGI middleware needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Message, Scope


def get_headers(scope: Scope, name: bytes) -> list[bytes]:
    """All values of a header, which may come more than once. name: in small letters, as ASGI gives them."""
    return [value for key, value in scope["headers"] if key == name]


def get_header(scope: Scope, name: bytes) -> bytes | None:
    """The value of a header that comes exactly once; None if it does not, or more often."""
    values = get_headers(scope, name)
    return values[0] if len(values) == 1 else None


def with_headers(start: Message, *headers: tuple[bytes, bytes]) -> Message:
    """http.response.start with these headers, in place of any of their names."""
    names = {name for name, _ in headers}
    kept = [header for header in start.get("headers", ()) if header[0].lower() not in names]
    return {**start, "headers": [*kept, *headers]}
