"""Llama-family checkpoints to 4-bit AWQ repositories, served fast.

The public names are imported when they are first asked for, so that `halfbyte --help` need not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halfbyte.checkpoint.open import open_source
    from halfbyte.engine.async_engine import AsyncEngine
    from halfbyte.engine.llm import LLM
    from halfbyte.engine.sampling_params import SamplingParams
    from halfbyte.errors import HalfbyteError
    from halfbyte.integrations.autoawq import AutoAWQForCausalLM
    from halfbyte.quantize import quantize

    __version__: str

_HOMES = {
    "LLM": "halfbyte.engine.llm",
    "AsyncEngine": "halfbyte.engine.async_engine",
    "AutoAWQForCausalLM": "halfbyte.integrations.autoawq",
    "HalfbyteError": "halfbyte.errors",
    "SamplingParams": "halfbyte.engine.sampling_params",
    "open_source": "halfbyte.checkpoint.open",
}

__all__ = [
    "LLM",
    "AsyncEngine",
    "AutoAWQForCausalLM",
    "HalfbyteError",
    "SamplingParams",
    "__version__",
    "open_source",
    "quantize",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415  takes longer than all the rest of this file

        value: Any = version("halfbyte")
    elif name == "quantize":
        value = import_module("halfbyte.quantize")  # a package that can be called: see there
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'halfbyte' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
