"""One server for all tests of this room: uvicorn in a thread, the quantized SmolLM2 in an engine of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from server_thread import RunningServer, ServerThread

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODEL = "smol"  # what the shared server's model is called


@pytest.fixture(scope="session")
def server(smollm2_awq: Path) -> Iterator[RunningServer]:
    """Without keys, one model named `smol`, a context of 2048."""
    from halfbyte.server.models import Models
    from halfbyte.server.settings import ServerSettings

    models = Models()
    models.add(MODEL, str(smollm2_awq), max_model_len=2048, kv_cache="256MiB")
    with ServerThread(ServerSettings(port=0), models) as running:
        yield running
