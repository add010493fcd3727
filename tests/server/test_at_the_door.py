"""TLS, pages of other sites, proxies, and the end: what stands between a network and the faces."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
import threading
import time

import httpx
import pytest
from server_thread import ServerThread
from tiny_repository import write_repository

from halfbyte.server.limits import Rate
from halfbyte.server.models import Models
from halfbyte.server.settings import ServerSettings


def without_models(**settings):
    return ServerThread(ServerSettings(port=0, **settings), Models())


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A certificate for 127.0.0.1, signed by itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    try:
        subprocess.run(
            [*make, "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=here",
             "-addext", "subjectAltName=IP:127.0.0.1"],
            check=True, capture_output=True,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("openssl, which makes the certificate, is not installed")
    return certificate, key


def test_tls_is_spoken_and_nothing_else(pair):
    certificate, key = pair
    with without_models(ssl_certfile=certificate, ssl_keyfile=key) as server:
        url = server.url.replace("http:", "https:")
        trusting = ssl.create_default_context(cafile=str(certificate))
        assert httpx.get(f"{url}/health", verify=trusting).status_code == 200
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{url}/health")
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{server.url}/health")


def test_clients_show_their_certificate_if_it_is_asked_for(pair):
    certificate, key = pair
    with without_models(ssl_certfile=certificate, ssl_keyfile=key, ssl_ca_certs=certificate) as server:
        url = server.url.replace("http:", "https:")
        known = ssl.create_default_context(cafile=str(certificate))
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}/health", verify=known)
        known.load_cert_chain(certificate, key)
        assert httpx.get(f"{url}/health", verify=known).status_code == 200


PREFLIGHT = {
    "Origin": "https://app.example", "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}  # fmt: skip


def test_pages_of_other_sites_may_not_ask():
    with without_models() as server:
        asked = httpx.options(f"{server.url}/v1/chat/completions", headers=PREFLIGHT)
        assert asked.status_code >= 400
        plain = httpx.get(f"{server.url}/health", headers={"Origin": "https://app.example"})
        for answer in (asked, plain):
            assert not [name for name in answer.headers if name.startswith("access-control")]


def test_pages_of_a_named_site_may_ask_and_need_the_key_for_it():
    from halfbyte.server.auth import Key

    with without_models(cors_origins=("https://app.example",), keys=(Key("sk-1", "a"),)) as server:
        url = f"{server.url}/v1/models"
        asked = httpx.options(url, headers=PREFLIGHT)  # browsers send no key with this
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == "https://app.example"
        assert "authorization" in asked.headers["access-control-allow-headers"].lower()
        other = httpx.options(url, headers=PREFLIGHT | {"Origin": "https://evil.example"})
        assert other.status_code >= 400
        assert "access-control-allow-origin" not in other.headers
        refused = httpx.get(url, headers={"Origin": "https://app.example"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://app.example", "a page can read why"
        key = {"Origin": "https://app.example", "Authorization": "Bearer sk-1"}
        assert httpx.get(url, headers=key).status_code == 200


@pytest.mark.parametrize(("believed", "second"), [("", 429), ("127.0.0.1", 404)])
def test_only_a_known_proxy_is_believed_who_asks(believed, second):
    with without_models(rate_limit=Rate.parse("1/h"), forwarded_allow_ips=believed) as server:
        answers = [
            httpx.post(f"{server.url}/v1/completions", json={"prompt": ""}, headers={"X-Forwarded-For": address})
            for address in ("203.0.113.1", "203.0.113.2")
        ]
        assert [answer.status_code for answer in answers] == [404, second]  # there is no model


def test_sigterm_lets_requests_end_and_tells_those_that_take_too_long(tmp_path):
    folder = write_repository(tmp_path / "tiny", max_position_embeddings=60_000)
    command = [sys.executable, "-m", "halfbyte", "serve", str(folder), "--port", "0", "--drain-seconds", "2"]
    program = subprocess.Popen([*command, "--served-model-name", "tiny"], stderr=subprocess.PIPE, text=True)
    assert program.stderr is not None
    try:
        line = next(line for line in program.stderr if "http://127.0.0.1:" in line)
        url = "http://127.0.0.1:" + line.split("http://127.0.0.1:")[1].split()[0].strip("/.,'\"")
        threading.Thread(target=program.stderr.read, daemon=True).start()
        begun = {name: threading.Event() for name in ("short", "long")}
        found: dict[str, list[str]] = {name: [] for name in begun}

        def ask(name, tokens):
            body = {"prompt": name, "max_tokens": tokens, "stream": True, "ignore_eos": True, "model": "tiny"}
            with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=30) as answer:
                for event in answer.iter_lines():
                    if event:
                        found[name].append(event)
                        begun[name].set()

        threads = [threading.Thread(target=ask, args=given) for given in (("short", 300), ("long", 50_000))]
        for thread in threads:
            thread.start()
        assert all(event.wait(20) for event in begun.values())
        program.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        program.send_signal(signal.SIGTERM)  # who asks again, as supervisors do, breaks nothing off
        for thread in threads:
            thread.join(20)
        assert found["short"][-1] == "data: [DONE]"
        last = json.loads([event for event in found["long"] if event != "data: [DONE]"][-1].removeprefix("data: "))
        assert "stop" in last["error"]["message"], last
        assert program.wait(20) == 0
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}/health")
    finally:
        program.kill()
        program.wait()
