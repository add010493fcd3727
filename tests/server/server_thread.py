"""A server in a thread, for tests. Not in conftest.py, whose name other rooms' tests have too."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    import uvicorn

    from halfbyte.server.models import Models
    from halfbyte.server.settings import ServerSettings


@dataclass(frozen=True)
class RunningServer:
    """Where it listens, and its insides."""

    url: str  # http://127.0.0.1:PORT, no slash at the end
    models: Models
    uvicorn: uvicorn.Server

    @property
    def engine(self) -> Any:
        return self.models.first.engine

    def wait_until_idle(self, seconds: float = 10.0) -> None:
        """Until no request is in the engine and all its blocks are free."""
        deadline = time.monotonic() + seconds
        while self.engine.unfinished or self._blocks_used():
            assert time.monotonic() < deadline, f"{self.engine.unfinished} requests left, {self.engine.stats}"
            time.sleep(0.02)

    def _blocks_used(self) -> int:
        """As the events of one more request tell it: an engine without work sends none."""
        httpx.post(f"{self.url}/v1/completions", json={"prompt": "a", "max_tokens": 1}).raise_for_status()
        return self.engine.stats.blocks_used


class ServerThread:
    """`with ServerThread(settings, models) as server`: a RunningServer, stopped at the end."""

    def __init__(self, settings: ServerSettings, models: Models) -> None:
        from halfbyte.server.run import make_server

        self.server = make_server(settings, models)
        self.models = models
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> RunningServer:
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive(), "the server ended while it started"
            time.sleep(0.02)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        return RunningServer(f"http://127.0.0.1:{port}", self.models, self.server)

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive(), "the server did not stop"
