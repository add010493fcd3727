"""Limits on bodies, concurrency and rates, on a bare application and over a real socket."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.errors import ConfigError
from halfbyte.server.auth import Key
from halfbyte.server.limits import LimitBodies, LimitConcurrency, LimitRate, Rate, is_too_deep


async def echo(scope, receive, send):
    """An application that answers with its body, once it is let."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def post(app, parts, headers=(), **scope):
    """Status, headers and body of a POST whose body comes in parts; asyncio.Event: the client waits for ever."""
    sent, parts = [], list(parts)

    async def receive():
        if not parts:
            return {"type": "http.disconnect"}
        part = parts.pop(0)
        if not isinstance(part, bytes):
            await asyncio.Event().wait()
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": list(headers)} | scope
    asyncio.run(app(scope, receive, send))
    if not sent:
        return None
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


LIMITED = LimitBodies(echo, max_bytes=100, max_depth=5, seconds=0.05)


def test_a_body_of_several_parts_arrives_whole():
    assert post(LIMITED, [b'{"a": ', b"", b"1}"])[::2] == (200, b'{"a": 1}')
    assert post(LIMITED, [b"x" * 100])[0] == 200
    assert post(LIMITED, [b""])[0] == 200


@pytest.mark.parametrize(
    ("parts", "headers", "status"),
    [
        ([None], [(b"content-length", b"101")], 413),  # refused before a byte came
        ([b"x" * 60, b"x" * 41], [], 413),
        ([b"x" * 60, b"x" * 41, None], [(b"content-length", b"5")], 413),  # what is said is not believed
        ([b"x"], [(b"content-length", b"-1")], 400),
        ([b"x"], [(b"content-length", b"1e3")], 400),
        ([b"x"], [(b"content-length", b"9" * 400)], 400),
        ([b"x"], [(b"content-length", b"1"), (b"content-length", b"2")], 400),
        ([b"[" * 6], [], 400),
        ([b"{", None], [], 408),
    ],
)
def test_bodies_that_are_refused(parts, headers, status):
    found, answer, body = post(LIMITED, parts, headers)
    assert found == status
    assert answer[b"connection"] == b"close"
    assert json.loads(body)["error"]["message"]


def test_a_client_that_goes_away_while_it_sends_is_let_go():
    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        raise AssertionError

    asyncio.run(LIMITED({"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}, receive, send))


def depth_of(value):
    if isinstance(value, list | dict):
        parts = value.values() if isinstance(value, dict) else value
        return 1 + max(map(depth_of, parts), default=0)
    return 0


TEXTS = st.text(alphabet='[]{}"\\a,:', max_size=8)
JSON = st.recursive(st.integers() | TEXTS, lambda v: st.lists(v, max_size=3) | st.dictionaries(TEXTS, v, max_size=3))


@settings(max_examples=200, deadline=None)
@given(JSON, st.integers(0, 5))
def test_depth_is_that_of_the_value_whatever_its_texts_hold(value, most):
    assert is_too_deep(json.dumps(value).encode(), most) == (depth_of(value) > most)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 5))
def test_any_bytes_are_taken(data, most):
    assert is_too_deep(data, most) in (True, False)


@pytest.mark.parametrize("pattern", [b"[", b"[}", b'"\\', b'\\"', b'"[', b"[]", b"{]", b'[""', b"]", b'"'])
def test_a_body_that_is_made_to_take_long_does_not(pattern):
    is_too_deep(pattern * (4 * 2**20 // len(pattern)), 100)  # quadratic time would end in pytest's timeout


def test_one_too_many_at_once_is_told_when_to_come_again():
    release = asyncio.Event()

    async def slow(scope, receive, send):
        await release.wait()
        await echo(scope, receive, send)

    limited = LimitConcurrency(slow, most=2)

    async def run():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(limited), base_url="http://t") as client:
            busy = [asyncio.ensure_future(client.post("/v1/completions")) for _ in range(2)]
            await asyncio.sleep(0.01)
            refused = await client.post("/v1/completions")
            looked = asyncio.ensure_future(client.get("/"))  # who only looks is not counted
            release.set()
            return refused, [(await each).status_code for each in [*busy, looked]], await client.post("/v1/completions")

    refused, answers, after = asyncio.run(run())
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"]["code"] == "too_many_requests"
    assert answers == [200, 200, 200]
    assert after.status_code == 200


def test_a_rate_is_kept_by_each_key():
    limited = LimitRate(echo, Rate.parse("2/h"))
    alice, bob = Key("a", "alice"), Key("b", "bob")
    scope = {"client": ("10.0.0.1", 5)}
    statuses = [post(limited, [b""], **scope, **{"halfbyte.key": key})[0] for key in (alice, alice, alice, bob)]
    assert statuses == [200, 200, 429, 200]
    _, headers, body = post(limited, [b""], **scope, **{"halfbyte.key": alice})
    assert 1700 < int(headers[b"retry-after"]) <= 1800
    assert json.loads(body)["error"]["code"] == "rate_limit_exceeded"
    assert post(limited, [b""], client=("10.0.0.2", 5))[0] == 200, "without a key the address counts"


def test_places_come_back_evenly():
    limited = LimitRate(echo, Rate.parse("10/s"))
    assert [limited.take("a", 0.0) for _ in range(10)] == [0.0] * 10
    assert limited.take("a", 0.0) == pytest.approx(0.1)
    assert limited.take("a", 0.05) == pytest.approx(0.05)
    assert limited.take("a", 0.15) == 0.0
    assert [limited.take("a", 100.0) for _ in range(11)][-1] > 0, "no more than the count is saved up"


def test_addresses_are_not_remembered_without_end(monkeypatch):
    from halfbyte.server import limits

    monkeypatch.setattr(limits, "MOST_CLIENTS", 3)
    limited = LimitRate(echo, Rate.parse("1/h"))
    for client in "abca":
        limited.take(client, 0.0)
    limited.take("d", 0.0)
    assert limited.take("a", 0.0) > 0, "asked after b did"
    assert limited.take("b", 0.0) == 0.0, "was forgotten"


@pytest.mark.parametrize("text", ["", "10", "0/s", "-1/s", "1/d", "1.5/s", "10 / s", "nan/s", "1/s/s"])
def test_rates_that_are_none(text):
    with pytest.raises(ConfigError, match="rate limit"):
        Rate.parse(text)
