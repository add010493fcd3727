"""vLLM's `dtype`, in our words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfbyte.errors import ConfigError

if TYPE_CHECKING:
    from halfbyte.models.loader import Compute

DTYPES: dict[str, Compute] = {  # half precision is what "auto" takes on a GPU
    "auto": "auto",
    "half": "auto",
    "float16": "auto",
    "bfloat16": "bfloat16",
    "float": "float32",
    "float32": "float32",
}


def compute_of(dtype: str, compute: Compute) -> Compute:
    """How to compute, by either name. Raises ConfigError for a dtype that there is not, and where they disagree."""
    found = DTYPES.get(dtype) if isinstance(dtype, str) else None
    if found is None:
        raise ConfigError(f"dtype is {dtype!r}; it must be one of {', '.join(map(repr, DTYPES))}")
    if found != "auto" and compute not in ("auto", found):
        raise ConfigError(f"dtype is {dtype!r} and compute {compute!r}; give one of them")
    return compute if found == "auto" else found
