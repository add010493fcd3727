"""Decides whether an address may be fetched: a plan's links are written by strangers.

`check_url` judges one URL at one moment. Whoever then connects must connect to one of the addresses that it returns,
not ask for the name again (a resolver may change its answer), and must check every redirect anew: see `fetch`.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from halfbyte.errors import BlockedURL
from halfbyte.rewoo.addresses import why_not_public

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    Resolver = Callable[[str, int], list[str]]  # host and port to IP addresses; OSError if there are none

__all__ = ["DEFAULT_PORTS", "BlockedURL", "Checked", "check_url", "is_public_url", "resolve"]

DEFAULT_PORTS = (80, 443)
LONGEST_URL = 8192
SCHEMES = {"http": 80, "https": 443}
HOST = re.compile(r"[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9])?)*")
NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")
# Names that lead inside, whatever they resolve to: special-use ones, and where clouds and clusters keep their secrets.
INSIDE_SUFFIXES = (
    "localhost", "local", "localdomain", "internal", "intranet", "private", "corp", "home", "lan", "home.arpa",
    "in-addr.arpa", "ip6.arpa", "onion", "invalid", "test", "svc", "cluster.local", "consul", "metadata.goog",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checked:
    """A URL that may be fetched now, by connecting to one of `addresses`."""

    url: str
    scheme: str
    host: str  # lower case, without a final dot; what TLS is to be verified against
    port: int
    target: str  # path and query
    addresses: tuple[str, ...]


def check_url(
    url: str,
    *,
    allow: Collection[str] = (),
    ports: Collection[int] | None = DEFAULT_PORTS,
    resolver: Resolver | None = None,
) -> Checked:
    """Judge a URL; raises BlockedURL, which says why, unless it is http(s) on the public internet.

    The host is resolved, and every address that it has must be public. allow: "host:port" pairs that may be fetched
    although they are not (tests serve their pages on loopback). ports: those that may be named; None: any. resolver:
    the system's by default. May wait for the resolver.
    """
    parts = _split(url)
    host, port = _host(url, parts), _port(url, parts)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    allowed = f"{host}:{port}" in allow or f"[{host}]:{port}" in allow
    if not allowed:
        if ports is not None and port not in ports:
            raise _blocked(url, f"port {port} is not among {', '.join(map(str, sorted(ports)))}")
        _check_name(url, host)
    addresses = _resolve(url, host, port, resolver or resolve)
    for address in addresses:
        why = None if allowed else why_not_public(address)
        if why:
            raise _blocked(url, f"{host} is {address}: {why}" if address != host else f"the address is {why}")
    return Checked(url, parts.scheme, host, port, target, tuple(addresses))


def is_public_url(url: str) -> bool:
    """Whether `check_url` lets it through."""
    try:
        check_url(url)
    except BlockedURL:
        return False
    return True


def resolve(host: str, port: int) -> list[str]:
    """A host's addresses, as the system knows them. Raises OSError if it has none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _split(url: str) -> SplitResult:
    if not isinstance(url, str):
        raise BlockedURL(f"a URL is a text, not of type {type(url).__name__}")
    if len(url) > LONGEST_URL:
        raise _blocked(url, f"it is longer than {LONGEST_URL} characters")
    odd = re.search(r"[\x00-\x20\x7f\\\ud800-\udfff]|\s", url)
    if odd:
        raise _blocked(url, f"it holds {odd[0]!r}")
    try:
        parts = urlsplit(url)
    except ValueError as e:
        raise _blocked(url, f"it is not a URL: {e}") from None
    if parts.scheme not in SCHEMES:
        raise _blocked(url, f"its scheme is {parts.scheme or 'missing'!r}, not http or https")
    if "@" in parts.netloc:
        raise _blocked(url, "it holds a user name")
    return parts


def _host(url: str, parts: SplitResult) -> str:
    try:
        host = parts.hostname or ""
    except ValueError as e:
        raise _blocked(url, str(e)) from None
    if parts.netloc.startswith("["):
        try:
            return str(IPv6Address(host))
        except AddressValueError:
            raise _blocked(url, "what stands in [ ] is not an IPv6 address") from None
    try:
        host = host.encode("idna").decode("ascii").lower() if host and not host.isascii() else host.lower()
    except UnicodeError:
        raise _blocked(url, "its host is not a valid name") from None
    host = host.removesuffix(".")
    if not HOST.fullmatch(host) or len(host) > 253:
        raise _blocked(url, "it has no host" if not host else "its host is not a valid name")
    if NUMBER.fullmatch(host.rpartition(".")[2]):  # a number at the end makes it an address, in whatever spelling
        try:
            return str(IPv4Address(host))
        except AddressValueError:
            raise _blocked(url, "its host is an address in disguise: not four decimal numbers") from None
    return host


def _port(url: str, parts: SplitResult) -> int:
    try:
        port = parts.port
    except ValueError:
        raise _blocked(url, "its port is not a number from 0 to 65535") from None
    return SCHEMES[parts.scheme] if port is None else port


def _check_name(url: str, host: str) -> None:
    if ":" in host or NUMBER.fullmatch(host.rpartition(".")[2]):
        return
    if "." not in host:
        raise _blocked(url, f"{host} is a name of the local network")
    for suffix in INSIDE_SUFFIXES:
        if host == suffix or host.endswith(f".{suffix}"):
            raise _blocked(url, f"{host} is not a name of the public internet")


def _resolve(url: str, host: str, port: int, resolver: Resolver) -> list[str]:
    if ":" in host or NUMBER.fullmatch(host.rpartition(".")[2]):
        return [host]
    try:
        addresses = resolver(host, port)
    except (OSError, UnicodeError) as e:
        raise _blocked(url, f"{host} cannot be resolved ({e})") from None
    if not addresses:
        raise _blocked(url, f"{host} has no address")
    return addresses


def _blocked(url: str, why: str) -> BlockedURL:
    return BlockedURL(f"{url!r:.200} is not fetched: {why}")
