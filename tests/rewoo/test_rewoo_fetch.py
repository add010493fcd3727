"""Fetching through the guard, from a real server on loopback."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import time
import tracemalloc

import pytest
from rewoo_pages import PAGE, serving

from halfbyte.errors import BlockedURL, ToolError
from halfbyte.rewoo.fetch import FetchLimits, fetch

pytest.importorskip("httpx")


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


def get(server, path="/page", limits=None, **options):
    options = {"allow": [server.where], **options}
    return asyncio.run(fetch(f"http://{server.where}{path}", limits=limits, **options))


def test_a_page(server):
    page = get(server)
    assert page.text == PAGE
    assert page.content_type == "text/html"
    assert get(server, "/plain").text == "Blåbær\n"
    assert get(server, "/zipped").text == PAGE


def test_loopback_is_blocked_without_the_allow_list(server):
    asked = len(server.asked)
    with pytest.raises(BlockedURL):
        get(server, allow=[])
    assert len(server.asked) == asked


def test_redirects(server):
    assert get(server, "/to-page").url.endswith("/page")
    with pytest.raises(ToolError, match="more than 5 redirects"):
        get(server, "/to-itself")


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:1/", "http://localhost/", "http://169.254.169.254/latest/meta-data/", "file:///etc/passwd",
        "gopher://127.0.0.1/", "//10.0.0.1/", "http://[::1]/", "http://2130706433/", "http://x@127.0.0.1/",
        "http://metadata.google.internal/", "http://[::ffff:127.0.0.1]/",
    ],
)  # fmt: skip
def test_redirects_are_checked_anew(server, target):
    with pytest.raises(BlockedURL):
        get(server, f"/to?{target}")


def test_a_redirect_to_no_url(server):
    with pytest.raises(ToolError):
        get(server, "/to?http://[::1")


def test_a_redirect_to_another_port_of_loopback_is_blocked(server):
    with serving() as secret:
        with pytest.raises(BlockedURL):
            get(server, f"/to?http://{secret.where}/page")
        assert secret.asked == []


def test_the_connection_goes_to_the_address_that_was_checked(server):
    """A resolver that changes its answer is asked once a connection, and its second answer never used."""
    answers = iter([["127.0.0.1"]])
    url = f"http://pages.example.com:{server.port}/page"
    allow = [f"pages.example.com:{server.port}"]
    page = asyncio.run(fetch(url, allow=allow, resolver=lambda host, port: next(answers)))
    assert page.text == PAGE
    assert server.asked[-1] == ("/page", f"pages.example.com:{server.port}")


def test_rebinding_between_redirects_is_seen(server):
    asked = []

    def changing(host, port):
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

    url = f"http://first.example.com:{server.port}/to?http://second.example.com/x"
    with pytest.raises(BlockedURL, match=r"169\.254\.169\.254"):
        asyncio.run(fetch(url, allow=[f"first.example.com:{server.port}"], resolver=changing))
    assert asked == ["first.example.com", "second.example.com"]


def test_a_gzip_bomb_does_not_unfold(server):
    tracemalloc.start()
    with pytest.raises(ToolError, match="larger than 1000000 bytes"):
        get(server, "/bomb", FetchLimits(bytes=1_000_000))
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/endless", "larger than"),
        ("/image", "'image/gif' is not read"),
        ("/untyped", "'unknown' is not read"),
        ("/broken-zip", "damaged content"),
        ("/brotli", "encoding 'br' is not read"),
        ("/nothing-here", "status 404"),
    ],
)
def test_what_is_not_taken(server, path, message):
    with pytest.raises(ToolError, match=message) as e:
        get(server, path, FetchLimits(bytes=500_000))
    assert not e.value.retryable


def test_a_body_that_drips(server):
    start = time.perf_counter()
    with pytest.raises(ToolError, match=r"not complete after 0.3 s") as e:
        get(server, "/drip", FetchLimits(seconds=0.3))
    assert time.perf_counter() - start < 4
    assert e.value.retryable


def test_a_busy_server_may_be_asked_again(server):
    with pytest.raises(ToolError, match="status 503") as e:
        get(server, "/busy")
    assert (e.value.retryable, e.value.wait) == (True, 7.0)


def test_nobody_there(server):
    with serving() as gone:
        pass
    with pytest.raises(ToolError, match="cannot connect"):
        asyncio.run(fetch(f"http://{gone.where}/", allow=[gone.where]))


def test_proxies_of_the_environment_are_not_used(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert get(server).text == PAGE


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=right.example.com", "-addext", "subjectAltName=DNS:right.example.com",
         "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder


def test_tls_is_verified_against_the_name(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    with serving(tls=context) as server:

        def get_from(name, tls):
            where = f"{name}:{server.port}"
            return asyncio.run(
                fetch(f"https://{where}/page", allow=[where], resolver=lambda *_: ["127.0.0.1"], tls=tls)
            )

        assert get_from("right.example.com", trusting).text == PAGE
        with pytest.raises(ToolError, match="certificate"):
            get_from("wrong.example.com", trusting)
        with pytest.raises(ToolError, match="certificate"):
            get_from("right.example.com", None)
        where = f"right.example.com:{server.port}"
        url = f"https://{where}/to?http://{where}/page"
        with pytest.raises(BlockedURL, match="https to http"):
            asyncio.run(fetch(url, allow=[where], resolver=lambda *_: ["127.0.0.1"], tls=trusting))
