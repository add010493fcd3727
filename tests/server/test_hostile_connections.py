"""What comes through a raw socket: slow headers, no HTTP, two lengths, half a body. Never a 5xx, never for ever."""

from __future__ import annotations

import socket
import time

import httpx
import pytest
from server_thread import ServerThread

from halfbyte.server.auth import Key
from halfbyte.server.models import Models
from halfbyte.server.settings import ServerSettings

HEADERS = 0.3  # seconds


@pytest.fixture(scope="module")
def door():
    """A server without a model: nothing here gets as far as one."""
    with ServerThread(ServerSettings(port=0, header_seconds=HEADERS, body_seconds=HEADERS), Models()) as running:
        yield running.url


def connect(door: str) -> socket.socket:
    host, port = door.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def all_of(client: socket.socket) -> bytes:
    """Until the server closes."""
    found = b""
    try:
        while part := client.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found


@pytest.mark.parametrize("first", [b"", b"G", b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nX: ", b"\r\n"])
def test_headers_that_do_not_come_are_not_waited_for(door, first):
    with connect(door) as client:
        client.sendall(first)
        assert all_of(client).startswith(b"HTTP/1.1 408 ")


def test_a_header_a_byte_at_a_time_is_not_waited_for(door):
    with connect(door) as client:
        client.sendall(b"GET /health HTTP/1.1\r\n")
        began = time.monotonic()
        try:
            while time.monotonic() - began < 20 * HEADERS:
                client.sendall(b"x")
                time.sleep(HEADERS / 6)
        except OSError:
            pass
        assert time.monotonic() - began < 10 * HEADERS


def test_headers_without_an_end_are_refused(door):
    with connect(door) as client:
        try:
            for _ in range(200):
                client.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 1024)
        except OSError:
            pass
        found = all_of(client)
        assert found == b"" or found.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))


def test_a_second_request_of_a_connection_has_its_time_anew(door):
    with connect(door) as client:
        for _ in range(3):
            client.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n")
            time.sleep(HEADERS / 2)
            client.sendall(b"\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_half_a_body_is_not_waited_for(door):
    with connect(door) as client:
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        assert all_of(client).startswith(b"HTTP/1.1 408 ")


@pytest.fixture(scope="module")
def locked():
    """The same, with a key."""
    settings = ServerSettings(port=0, header_seconds=HEADERS, keep_alive_seconds=1, keys=(Key("sk-1", "a"),))
    with ServerThread(settings, Models()) as running:
        yield running.url


def test_the_rest_of_a_body_that_was_refused_is_not_waited_for(locked):
    with connect(locked) as client:
        client.sendall(POST + b"Content-Length: 100000\r\n\r\n{")
        assert client.recv(65536).startswith(b"HTTP/1.1 401 ")
        client.sendall(b"x")
        assert all_of(client) == b"", "one request has one answer"


def test_a_connection_goes_on_after_a_long_body_that_was_refused(locked):
    with connect(locked) as client:
        client.sendall(POST + b"Content-Length: 200000\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 401 ")
        client.sendall(b"x" * 200_000)
        client.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


POST = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
SMUGGLED = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /%00%ff%zz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /v1/models\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX\x00Y: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        POST + b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}" + SMUGGLED,
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
        POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        POST + b"Content-Length: +2\r\n\r\n{}",
        POST + b"Content-Length: 18446744073709551618\r\n\r\n{}",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff0\r\n{}",
        POST + b"Connection: close\r\nContent-Length: 2\r\n\r\n\xff\xfe",
        POST + b"Connection: close\r\nContent-Length: 7\r\n\r\n\xff\xfe\x00\x00\x00{}",
        POST + b"Connection: close\r\nContent-Length: 17\r\n\r\n" + b'{"prompt": "\\ud8"',
        POST + b"Connection: close\r\nContent-Length: 30000\r\n\r\n" + b"[" * 30000,
        POST + b"Connection: close\r\nContent-Length: 19\r\n\r\n" + b'{"temperature": NaN',
        POST + b"Connection: close\r\nContent-Length: 22\r\n\r\n" + b'{"max_tokens": 1e9999}',
        POST + b"Connection: close\r\nContent-Length: 4016\r\n\r\n" + b'{"max_tokens": ' + b"9" * 4000 + b"}",
        POST + b"Connection: close\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
def test_nothing_of_this_is_an_error_of_ours(door, sent):
    """It is refused, and what hides behind the first request is not answered as a second one."""
    with connect(door) as client:
        client.sendall(sent)
        found = all_of(client)
    statuses = [int(part[:3]) for part in found.split(b"HTTP/1.1 ")[1:]]
    assert all(400 <= status < 500 for status in statuses), found[:300]
    assert len(statuses) == 1
    assert b"process_cpu" not in found
    assert httpx.get(f"{door}/health").status_code == 200


@pytest.mark.parametrize(
    "body", ["null", "[null, null]", '"text"', "3", "[]", "{}", '{"prompt": {}}', '{"inputs": [1]}']
)
def test_no_route_fails_at_a_body_of_another_kind(door, body):
    document = httpx.get(f"{door}/openapi.json").json()["paths"]
    routes = [path for path, methods in document.items() if "post" in methods]
    assert len(routes) > 12
    for path in routes:
        answer = httpx.post(f"{door}{path}", content=body, headers={"Content-Type": "application/json"})
        assert 400 <= answer.status_code < 500, (path, answer.text)
        assert answer.json()["error"], path


def test_a_method_that_a_route_has_not_is_405(door):
    for path in ("/generate", "/v1/completions", "/info", "/tokenize"):
        assert httpx.request("PATCH", f"{door}{path}").status_code == 405
