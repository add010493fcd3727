"""Hundreds of clients at once, on a tiny model: each stream is whole, or its client has left and it is gone."""

from __future__ import annotations

import asyncio
import json
import random

import pytest
from server_thread import ServerThread
from tiny_repository import write_repository

from halfbyte.server.models import Models
from halfbyte.server.settings import ServerSettings

TOKENS = 6


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    models = Models()
    folder = write_repository(tmp_path_factory.mktemp("tiny"), max_position_embeddings=4096)
    models.add("tiny", str(folder), max_requests=1024)
    with ServerThread(ServerSettings(port=0), models) as running:
        yield running


async def ask(server, prompt, tokens, leave_after=None):
    """The whole answer, or what there was until the client left after so many seconds."""
    body = {"prompt": prompt, "max_tokens": tokens, "stream": True, "ignore_eos": True, "seed": 1}
    content = json.dumps(body | {"stream_options": {"include_usage": True}}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    head = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    answer = b""
    try:
        async with asyncio.timeout(leave_after):
            answer = await reader.read()
    except TimeoutError:
        pass
    finally:
        writer.close()
    return answer


def test_500_streams_at_once(server):
    async def run():
        return await asyncio.gather(*(ask(server, f"Prompt {i}", TOKENS) for i in range(500)))

    for answer in asyncio.run(run()):
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"data: [DONE]" in answer
        assert b'"completion_tokens": %d' % TOKENS in answer
    server.wait_until_idle()


def test_clients_that_leave_at_random_leave_nothing_behind(server):
    rng = random.Random(0)

    async def run():
        stay = [ask(server, f"Stay {i}", TOKENS) for i in range(50)]
        leave = [ask(server, f"Leave {i}", 3000, rng.uniform(0, 2)) for i in range(300)]
        return (await asyncio.gather(*stay, *leave))[:50]

    assert all(b"data: [DONE]" in answer for answer in asyncio.run(run()))
    server.wait_until_idle()
