"""Options of the engine that several commands have."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class CacheKind(StrEnum):
    """What keys and values are kept as."""

    AUTO = "auto"
    FP8 = "fp8"
    INT8 = "int8"


Cache = Annotated[
    str | None,
    typer.Option(
        "--kv-cache",
        metavar="SIZE",
        help='Memory for keys and values: "2GiB", or a share such as 0.3.',
        show_default="a quarter of what is free, on a GPU 85 %",
    ),
]
CacheDtype = Annotated[
    CacheKind,
    typer.Option("--kv-cache-dtype", help="What they are kept as; fp8 and int8 take half the memory, on a GPU."),
]
Deterministic = Annotated[
    bool,
    typer.Option("--deterministic", help="On a GPU, too, the same tokens whatever else is asked at the time; slower."),
]
Ranks = Annotated[
    int,
    typer.Option(
        "--tensor-parallel-size",
        "-tp",
        min=1,
        metavar="N",
        help="GPUs (or processes on a CPU) that compute each token.",
    ),
]
Seqs = Annotated[
    int | None,
    typer.Option(
        "--max-num-seqs", min=1, metavar="N", help="Most sequences of a pass.", show_default="64, on a GPU 256"
    ),
]
Batched = Annotated[
    int | None,
    typer.Option(
        "--max-num-batched-tokens", min=1, metavar="N", help="Most tokens of a pass.", show_default="512, on a GPU 4096"
    ),
]
