"""Keys: every route of the application asks for one, but /health and /ping; admin routes ask for their own."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from halfbyte.errors import ConfigError
from halfbyte.server.app import create_app
from halfbyte.server.auth import Key, Keys, read_keys
from halfbyte.server.models import Models
from halfbyte.server.settings import ServerSettings

ALICE, BOB, ROOT = Key("sk-alice-000000000000", "alice"), Key("sk-bob", "bob"), Key("sk-root", "root")


def make_app(**settings):
    return create_app(ServerSettings(**settings), Models())


def ask(app, method, path, **options):
    async def run():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **options)

    return asyncio.run(run())


def routes_of(app):
    """(method, path) of everything that the application answers, found in it and not in a list of ours."""
    found = []
    for path, methods in app.openapi()["paths"].items():
        found += [(method.upper(), path.replace("{", "").replace("}", "")) for method in methods]
    return [*found, ("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/metrics"), ("GET", "/nowhere"), ("PUT", "/x")]


GUARDED = make_app(keys=(ALICE, BOB), admin_keys=(ROOT,))


@pytest.mark.parametrize(("method", "path"), routes_of(GUARDED))
def test_every_route_but_two_asks_for_a_key(method, path):
    if path in ("/health", "/ping"):
        assert ask(GUARDED, method, path).status_code in (200, 503)
        return
    for headers in ({}, {"Authorization": "Bearer sk-other"}, {"Authorization": "Basic c2stYWxpY2U="}):
        response = ask(GUARDED, method, path, headers=headers)
        assert response.status_code == 401, (method, path, headers)
        assert response.headers["www-authenticate"] == "Bearer"
    right = ROOT if path.startswith("/admin") or "lora_adapter" in path else BOB
    response = ask(GUARDED, method, path, headers={"Authorization": f"Bearer {right.secret}"})
    assert response.status_code not in (401, 403), (method, path)


def test_there_are_routes_to_guard():
    assert len(routes_of(GUARDED)) > 12


@pytest.mark.parametrize(
    "path",
    ["/health/", "/health/x", "/HEALTH", "//health", "/health%2f..%2fmetrics", "/health/../metrics", "/ping;/metrics"],
)
def test_what_looks_like_an_open_path_is_not_open(path):
    assert ask(GUARDED, "GET", path).status_code == 401


@pytest.mark.parametrize(
    "values",
    [
        [b"Bearer sk-bob", b"Bearer sk-bob"],
        [b"Bearer sk-bob", b"Bearer other"],
        [b"Bearer"],
        [b"Bearer "],
        [b"Bearer sk-bo"],
        [b"Bearer sk-bobb"],
        [b"sk-bob"],
        [b"Bearer \xff\xfe"],
        [b"Bearer " + b"x" * 60_000],
    ],
)
def test_headers_that_are_no_key(values):
    headers = [(b"authorization", value) for value in values]
    assert ask(GUARDED, "GET", "/v1/models", headers=headers).status_code == 401


def test_a_query_cookie_or_other_header_is_no_key():
    for options in (
        {"params": {"api_key": "sk-bob"}},
        {"headers": {"Cookie": "key=sk-bob"}},
        {"auth": ("sk-bob", "sk-bob")},
    ):
        assert ask(GUARDED, "GET", "/v1/models", **options).status_code == 401


def test_admin_keys_and_others_do_not_open_each_others_doors():
    assert ask(GUARDED, "GET", "/admin/models", headers={"Authorization": "Bearer sk-bob"}).status_code == 401
    assert ask(GUARDED, "GET", "/v1/models", headers={"Authorization": "Bearer sk-root"}).status_code == 401
    for app in (make_app(), make_app(keys=(BOB,))):
        response = ask(app, "GET", "/admin/models", headers={"Authorization": "Bearer sk-bob"})
        assert response.status_code == 403
        assert "without an admin key" in response.json()["error"]["message"]


def test_web_sockets_find_no_open_door():
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/v1/models", "headers": []}
    asyncio.run(GUARDED(scope, receive, send))
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_keys_are_read_from_options_a_file_and_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("HALFBYTE_API_KEY", raising=False)
    assert read_keys() == ()
    file = tmp_path / "keys"
    file.write_text("# staff\nsk-alice-000000000000 alice\n\n  sk-bob   bob of sales \nsk-carol\n")
    monkeypatch.setenv("HALFBYTE_API_KEY", "sk-env")
    keys = read_keys(["sk-option"], file)
    assert [(key.secret, key.name) for key in keys] == [
        ("sk-option", "key-1"),
        ("sk-alice-000000000000", "alice"),
        ("sk-bob", "bob of sales"),
        ("sk-carol", "keys:5"),
        ("sk-env", "environment"),
    ]
    assert "sk-" not in repr(keys)
    assert "sk-" not in repr(ServerSettings(keys=keys, admin_keys=keys))
    assert [Keys(keys).find(key.secret.encode()) for key in keys] == list(keys)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "holds no API key"), ("# only a remark\n", "holds no API key"), ("ключ\n", "printable ASCII"),
     ("one a\none b\n", "given twice")],
)  # fmt: skip
def test_key_files_that_are_wrong(tmp_path, text, reason):
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        read_keys([], file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys([], tmp_path / "absent")


def test_all_keys_are_compared_whichever_is_right(monkeypatch):
    from halfbyte.server import auth

    calls = []
    compare = auth.hmac.compare_digest
    monkeypatch.setattr(auth.hmac, "compare_digest", lambda a, b: calls.append((len(a), len(b))) or compare(a, b))
    keys = Keys([ALICE, BOB, ROOT])
    for secret in (b"", b"x" * 1000, ALICE.secret.encode(), ROOT.secret.encode()):
        calls.clear()
        keys.find(secret)
        assert calls == [(32, 32)] * 3  # digests: neither the number nor a length tells anything
