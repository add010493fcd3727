"""Which IP addresses are on the public internet, and which only look as if they were."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

# Stated here rather than taken from `is_global`, whose answers differ between Python's patch releases.
NOT_PUBLIC_V4 = tuple(
    (IPv4Network(network), what)
    for network, what in (
        ("0.0.0.0/8", "this network"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared, behind a carrier's NAT"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "a cloud's metadata service"),  # Azure's: public by number only
        ("169.254.0.0/16", "link-local, where clouds keep their metadata service"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved for protocols"),
        ("192.0.2.0/24", "for documentation"),
        ("192.31.196.0/24", "reserved for protocols"),
        ("192.52.193.0/24", "reserved for protocols"),
        ("192.88.99.0/24", "a 6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "reserved for protocols"),
        ("198.18.0.0/15", "for benchmarks"),
        ("198.51.100.0/24", "for documentation"),
        ("203.0.113.0/24", "for documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)
GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")  # nothing else is routed on the internet
NOT_PUBLIC_V6 = tuple(
    (IPv6Network(network), what)
    for network, what in (
        ("2001::/23", "reserved for protocols, Teredo among them"),
        ("2001:db8::/32", "for documentation"),
        ("2002::/16", "6to4"),
        ("2620:4f:8000::/48", "reserved for protocols"),
        ("3fff::/20", "for documentation"),
    )
)
MAPPED = IPv6Network("::ffff:0:0/96")
NAT64 = IPv6Network("64:ff9b::/96")  # how a network without v4 reaches it: judged by the v4 address inside
ISATAP = (0x00005EFE, 0x02005EFE)  # bits 32 to 63 of an address that holds a v4 address in its end


def why_not_public(text: str) -> str | None:
    """Why an address must not be connected to; None if it is on the public internet."""
    try:
        address = ip_address(text)
    except ValueError:
        return "not an IP address"
    return _why_v4(address) if isinstance(address, IPv4Address) else _why_v6(address)


def _why_v4(address: IPv4Address) -> str | None:
    for network, what in NOT_PUBLIC_V4:
        if address in network:
            return what
    return None


def _why_v6(address: IPv6Address) -> str | None:
    if address.scope_id is not None:
        return "bound to an interface"
    number = int(address)
    if address in MAPPED or address in NAT64:
        return _why_v4(IPv4Address(number & 0xFFFFFFFF))
    if address not in GLOBAL_UNICAST_V6:
        return "not a global address"
    for network, what in NOT_PUBLIC_V6:
        if address in network:
            return what
    if (number >> 32) & 0xFFFFFFFF in ISATAP:
        return _why_v4(IPv4Address(number & 0xFFFFFFFF))
    return None
