"""Fetches a page from the public internet, and nothing else: the guard is asked before each connection.

The connection goes to the address that the guard has checked, with TLS verified against the name; redirects are
followed by hand, each checked anew; what comes is counted while it comes, before and after decompression.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from halfbyte.errors import BlockedURL, IntegrationError, ToolError
from halfbyte.rewoo.guard import DEFAULT_PORTS, Checked, check_url

if TYPE_CHECKING:
    import ssl

    import httpx

    from halfbyte.rewoo.guard import Resolver

REDIRECTS = (301, 302, 303, 307, 308)
TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
TEXT_TYPES = ("text/html", "text/plain", "text/markdown", "application/xhtml+xml", "application/xml", "text/xml")
INFLATE_WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 47}  # zlib's wbits; 47 finds out by itself
LONGEST_WAIT = 60.0  # seconds, that a server may ask for


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What one page may cost."""

    bytes: int = 5_000_000  # of the body, as it comes and decompressed
    seconds: float = 20.0  # for all of it, redirects included
    redirects: int = 5
    content_types: tuple[str, ...] = TEXT_TYPES
    ports: Collection[int] | None = DEFAULT_PORTS


@dataclass(frozen=True, slots=True)
class Page:
    """What was fetched."""

    url: str  # after redirects
    content_type: str  # lower case, without parameters
    charset: str | None
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        try:
            return self.body.decode(self.charset or "utf-8", "replace")
        except LookupError:
            return self.body.decode("utf-8", "replace")


async def fetch(
    url: str,
    *,
    limits: FetchLimits | None = None,
    allow: Collection[str] = (),
    resolver: Resolver | None = None,
    tls: ssl.SSLContext | None = None,
) -> Page:
    """Get a page. Raises BlockedURL if it or a redirect of it must not be fetched, ToolError if it cannot be had.

    allow, resolver: see `check_url`. tls: another context than the system's certificate authorities.
    """
    limits = limits or FetchLimits()
    try:
        async with asyncio.timeout(limits.seconds):
            return await _follow(url, limits, allow, resolver, tls)
    except TimeoutError:
        raise ToolError(f"{url:.200}: not complete after {limits.seconds:g} s", retryable=True) from None


async def _follow(
    url: str, limits: FetchLimits, allow: Collection[str], resolver: Resolver | None, tls: ssl.SSLContext | None
) -> Page:
    secure = False
    for _ in range(limits.redirects + 1):
        checked = await asyncio.to_thread(check_url, url, allow=allow, ports=limits.ports, resolver=resolver)
        if secure and checked.scheme != "https":
            raise BlockedURL(f"{url:.200} is not fetched: a redirect from https to http")
        secure = checked.scheme == "https"
        found = await _get(checked, limits, tls)
        if isinstance(found, Page):
            return found
        url = _joined(url, found)
    raise ToolError(f"{url:.200}: more than {limits.redirects} redirects")


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location).partition("#")[0]
    except ValueError:
        raise BlockedURL(f"{url:.200}: a redirect to {location!r:.100}, which is no URL") from None


async def _get(checked: Checked, limits: FetchLimits, tls: ssl.SSLContext | None) -> Page | str:
    """The page, or where it has moved to. Tries the addresses in turn until one can be connected to."""
    httpx = _httpx()
    failure = "no address"
    for address in checked.addresses:
        # A client for each connection: one kept open could serve another name, which TLS was not verified for.
        async with httpx.AsyncClient(
            verify=tls or default_tls(), trust_env=False, follow_redirects=False, timeout=limits.seconds, http2=False
        ) as client:
            try:
                async with _stream(client, checked, address) as response:
                    return await _read(response, checked, limits)
            except httpx.ConnectError as e:
                failure = str(e)
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as e:
                raise ToolError(f"{checked.url:.200}: {type(e).__name__}: {e}", retryable=True) from e
    raise ToolError(f"{checked.url:.200}: cannot connect ({failure})", retryable=True)


def _stream(client: httpx.AsyncClient, checked: Checked, address: str) -> Any:
    host = f"[{address}]" if ":" in address else address
    named = f"[{checked.host}]" if ":" in checked.host else checked.host
    standard = checked.port == {"http": 80, "https": 443}[checked.scheme]
    return client.stream(
        "GET",
        f"{checked.scheme}://{host}:{checked.port}{checked.target}",
        headers={
            "Host": named if standard else f"{named}:{checked.port}",
            "User-Agent": "halfbyte (a program that reads pages for a person)",
            "Accept": "text/html, text/plain;q=0.9, */*;q=0.1",
            "Accept-Encoding": "gzip",
            "Connection": "close",
        },
        extensions={"sni_hostname": checked.host},
    )


async def _read(response: httpx.Response, checked: Checked, limits: FetchLimits) -> Page | str:
    if response.status_code in REDIRECTS and "location" in response.headers:
        return str(response.headers["location"])
    if response.status_code != 200:
        raise ToolError(
            f"{checked.url:.200}: status {response.status_code}",
            retryable=response.status_code in TRY_AGAIN,
            wait=_retry_after(response.headers.get("retry-after", "")),
        )
    content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in limits.content_types:
        raise ToolError(f"{checked.url:.200}: content of type {content_type or 'unknown'!r:.60} is not read")
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity", *INFLATE_WINDOW):
        raise ToolError(f"{checked.url:.200}: content encoding {encoding!r:.60} is not read")
    body = await _body(response, INFLATE_WINDOW.get(encoding), limits.bytes, checked.url)
    return Page(checked.url, content_type, response.charset_encoding, body)


async def _body(response: httpx.Response, window: int | None, most: int, url: str) -> bytes:
    body, came = bytearray(), 0
    inflate = zlib.decompressobj(window) if window is not None else None
    async for chunk in response.aiter_raw():
        came += len(chunk)
        try:
            # One byte more than may come is asked for, never all that a bomb would unfold to.
            body += inflate.decompress(chunk, most - len(body) + 1) if inflate else chunk
        except zlib.error as e:
            raise ToolError(f"{url:.200}: damaged content ({e})") from None
        if came > most or len(body) > most:
            raise ToolError(f"{url:.200}: larger than {most} bytes")
    return bytes(body)


def _retry_after(value: str) -> float:
    return min(float(value), LONGEST_WAIT) if value.isascii() and value.isdigit() and len(value) < 9 else 0.0


@lru_cache(maxsize=1)
def default_tls() -> ssl.SSLContext:
    """Certificates and names verified; made once, for it takes some time."""
    context: ssl.SSLContext = _httpx().create_ssl_context(trust_env=False)
    return context


def _httpx() -> Any:
    try:
        import httpx  # noqa: PLC0415  an extra
    except ImportError:
        raise IntegrationError("fetching pages needs httpx: pip install 'halfbyte[rewoo]'") from None
    return httpx
