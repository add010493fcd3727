"""Addresses that must not be fetched: none gets through."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.rewoo.addresses import why_not_public
from halfbyte.rewoo.guard import BlockedURL, check_url, is_public_url

ATTACKS = [
    # other schemes
    "file:///etc/passwd", "gopher://example.com:70/_x", "ftp://example.com/", "data:text/html,x", "javascript:alert(1)",
    "jar:http://example.com!/", "dict://example.com:11211/", "ldap://example.com", "//example.com/", "example.com", "", "http",
    "http:", "http://", "http:///path", "https://:443/", "HTTP+UNIX://x/", "ws://example.com/",
    # v4 addresses that are not public
    "http://127.0.0.1/", "http://127.1.2.3/", "http://0.0.0.0/", "http://10.0.0.1/", "http://172.16.0.1/",
    "http://172.31.255.255/", "http://192.168.1.1/", "http://169.254.169.254/latest/meta-data/", "http://100.64.0.1/",
    "http://100.100.100.200/", "http://168.63.129.16/", "http://192.0.0.192/", "http://192.0.2.1/", "http://198.18.0.1/",
    "http://198.51.100.1/", "http://203.0.113.1/", "http://224.0.0.1/", "http://239.255.255.250/", "http://240.0.0.1/",
    "http://255.255.255.255/", "http://192.88.99.1/",
    # in other spellings
    "http://2130706433/", "http://0x7f000001/", "http://0x7f.0.0.1/", "http://0177.0.0.1/", "http://017700000001/",
    "http://127.1/", "http://127.0.1/", "http://0/", "http://00.0.0.0/", "http://127.0.0.01/", "http://0x/",
    "http://127.0.0.1./", "http://①②⑦.⓪.⓪.①/", "http://127。0。0。1/", "http://127．0．0．1/", "http://１２７.0.0.1/",
    "http://2852039166/", "http://0xa9fea9fe/", "http://169.254.43518/", "http://%31%32%37.0.0.1/", "http://127%2e0.0.1/",
    "http://4294967296/", "http://999.1.1.1/", "http://1.2.3.4.5/",
    # v6
    "http://[::1]/", "http://[::]/", "http://[0:0:0:0:0:0:0:1]/", "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/",
    "http://[::ffff:169.254.169.254]/", "http://[::127.0.0.1]/", "http://[64:ff9b::127.0.0.1]/", "http://[64:ff9b::a9fe:a9fe]/",
    "http://[64:ff9b:1::1]/", "http://[2002:7f00:1::]/", "http://[2002:a9fe:a9fe::1]/", "http://[2002:808:808::1]/",
    "http://[2001:0:7f00:1::]/", "http://[fe80::1]/", "http://[fe80::1%25eth0]/", "http://[fe80::1%eth0]/",
    "http://[fc00::1]/", "http://[fd00:ec2::254]/", "http://[fd20:ce::254]/", "http://[fec0::1]/", "http://[ff02::1]/",
    "http://[2001:db8::1]/", "http://[3fff::1]/", "http://[100::1]/", "http://[5f00::1]/", "http://[::ffff:0:127.0.0.1]/",
    "http://[2606:4700::5efe:127.0.0.1]/", "http://[2606:4700::200:5efe:10.0.0.1]/", "http://[2001:10::1]/", "http://[v1.x]/",
    "http://[::1", "http://::1/", "http://[]/", "http://[1.1.1.1]/", "http://[::1]evil.com/",
    # names that lead inside
    "http://localhost/", "http://LOCALHOST/", "http://localhost./", "http://a.localhost/", "http://foo.local/", "http://router/",
    "http://metadata/", "http://metadata.google.internal/computeMetadata/v1/", "http://metadata.goog/",
    "http://instance-data/latest/", "http://vault.internal/", "http://kubernetes.default.svc/",
    "http://kubernetes.default.svc.cluster.local/", "http://nas.lan/", "http://x.home.arpa/", "http://1.0.0.127.in-addr.arpa/",
    # disguised hosts
    "http://example.com@127.0.0.1/", "http://127.0.0.1@example.com/", "http://user:pw@example.com/", "http://@example.com/",
    "http://example.com\\@127.0.0.1/", "http://127.0.0.1\\.example.com/", "http://exa mple.com/", "http://exam\tple.com/",
    "http://example.com\n127.0.0.1/", "http://example.com\r\nHost: x/", "\x00http://example.com/", " http://example.com/",
    "http://example.com /", "http://-example.com/", "http://exa_mple..com/", "http://.example.com/", "http://exam%00ple.com/",
    "http://example.com#@x/ y", "http://\u202eexample.com/", "http://ex\u00adample.com:22/", "http://\ud800.com/",
    # ports
    "http://example.com:22/", "http://example.com:0/", "http://example.com:6379/", "http://example.com:99999/",
    "http://example.com:-1/", "http://example.com:80:80/", "http://example.com:x/", "http://example.com:８０８０/",
    "http://" + "a" * 300 + ".com/", "http://example.com/" + "a" * 10_000,
]  # fmt: skip


def public(host, port):
    return ["93.184.216.34"]


@pytest.mark.parametrize("url", ATTACKS, ids=range(len(ATTACKS)))
def test_attacks_are_blocked(url):
    with pytest.raises(BlockedURL):
        check_url(url, resolver=public)


@pytest.mark.parametrize("value", [None, 7, b"http://example.com/", ["http://example.com/"]])
def test_what_is_no_text_is_blocked(value):
    with pytest.raises(BlockedURL):
        check_url(value)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.1.1",
        "169.254.169.254",
        "::1",
        "fe80::1%eth0",
        "::ffff:10.0.0.1",
        "fd00:ec2::254",
        "64:ff9b::7f00:1",
        "x",
    ],
)
def test_names_are_judged_by_all_their_addresses(address):
    for answer in ([address], ["93.184.216.34", address], [address, "93.184.216.34"]):
        with pytest.raises(BlockedURL, match="rebind"):
            check_url("https://rebind.example.com/", resolver=lambda host, port, answer=answer: answer)


def test_names_without_an_address():
    def fails(host, port):
        raise OSError("no such name")

    for resolver in (fails, lambda host, port: []):
        with pytest.raises(BlockedURL):
            check_url("https://example.com/", resolver=resolver)
    with pytest.raises(BlockedURL):
        check_url("http://a.invalid/")


@pytest.mark.parametrize(
    ("url", "host", "port", "target"),
    [
        ("http://example.com", "example.com", 80, "/"),
        ("https://EXAMPLE.com./a/b?c=d#e", "example.com", 443, "/a/b?c=d"),
        ("https://web.site/123", "web.site", 443, "/123"),
        ("http://8.8.8.8:443/", "8.8.8.8", 443, "/"),
        ("http://[2606:4700::1111]/", "2606:4700::1111", 80, "/"),
        ("http://[64:ff9b::808:808]/", "64:ff9b::808:808", 80, "/"),
        ("https://bücher.example/", "xn--bcher-kva.example", 443, "/"),
        ("https://a.example.com/?u=http://127.0.0.1/", "a.example.com", 443, "/?u=http://127.0.0.1/"),
    ],
)
def test_what_is_public_goes_through(url, host, port, target):
    checked = check_url(url, resolver=public)
    assert (checked.host, checked.port, checked.target) == (host, port, target)
    assert all(why_not_public(address) is None for address in checked.addresses)


def test_the_allow_list_is_exact():
    allow = ["127.0.0.1:8080"]
    assert check_url("http://127.0.0.1:8080/x", allow=allow).addresses == ("127.0.0.1",)
    for url in ("http://127.0.0.1/", "http://127.0.0.1:8081/", "http://127.0.0.2:8080/", "http://localhost:8080/"):
        with pytest.raises(BlockedURL):
            check_url(url, allow=allow)
    with pytest.raises(BlockedURL):
        check_url("http://user@127.0.0.1:8080/", allow=allow)
    assert check_url("http://[::1]:8080/", allow=["[::1]:8080"]).host == "::1"


def test_other_ports_by_option():
    assert check_url("http://example.com:8080/", ports=[8080], resolver=public).port == 8080
    assert check_url("http://example.com:22/", ports=None, resolver=public).port == 22


def test_is_public_url():
    assert is_public_url("http://8.8.8.8/")
    assert not is_public_url("http://127.0.0.1/")


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address) | st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address))
def test_nothing_that_python_calls_private_is_called_public(address):
    if why_not_public(str(address)) is None:
        assert address.is_global
        assert not address.is_multicast


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_checked_or_blocked(text):
    for url in (text, f"http://{text}", f"https://example.com{text}", f"http://{text}@8.8.8.8/"):
        try:
            checked = check_url(url, resolver=public)
        except BlockedURL:
            continue
        assert all(why_not_public(address) is None for address in checked.addresses)
